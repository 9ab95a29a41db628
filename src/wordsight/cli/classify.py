"""`wordsight classify`: zero-shot classification of images, tagging, and sorting into directories."""

from wordsight.cli import classify_options as own
from wordsight.cli import options as shared
from wordsight.cli import transfer


def classify(
    images: shared.ImagesArgument,
    labels: own.LabelListOption,
    model: shared.ModelOption,
    templates: own.TemplatesOption = "photo",
    repeated_labels: own.RepeatedOption = False,
    multi_label: own.MultiLabelOption = False,
    threshold: own.ThresholdOption = None,
    top: own.TopOption = None,
    none_of_these: own.NoneOption = False,
    temperature: own.TemperatureOption = "model",
    calibrate: own.CalibrateOption = None,
    out: own.OutOption = None,
    page: own.PageOption = None,
    page_limit: own.PageLimitOption = 2000,
    why: own.WhyOption = None,
    copy_to: transfer.CopyToOption = None,
    move_to: transfer.MoveToOption = None,
    dry_run: transfer.DryRunOption = False,
    yes: transfer.YesOption = False,
    image_column: shared.ImageColumnOption = None,
    text_column: shared.TextColumnOption = None,
    label_column: shared.LabelColumnOption = None,
    image_root: shared.ImageRootOption = None,
    names: shared.NamesOption = None,
    architecture: shared.AsOption = None,
    averaged: shared.AveragedOption = None,
    device: shared.DeviceOption = None,
    runtime: shared.RuntimeOption = "torch",
    decoding: shared.DecodingOption = None,
    policy: shared.PolicyOption = "viewer",
    batch_size: shared.BatchSizeOption = None,
    frames_per_s: shared.FramesOption = 1.0,
    mirror: shared.MirrorOption = None,
    as_json: shared.JsonLinesOption = False,
    quiet: shared.QuietOption = False,
) -> None:
    """Classify images with labels of your choice, without training.

    Prints one line per image: its name and the most probable label, or with --multi-label or --threshold all labels
    that apply. An image that cannot be read gets a line with the reason, and the others are still classified. Where
    the input has labels, the accuracy follows, with its interval, the recall of each class and the confusions.

    \b
    Example:
      wordsight classify photos/ --labels cat,dog,bird --model runs/first
    """
    from wordsight.cli.classify_run import LabelOptions, Outputs, PrintOptions, run_classify, table_options
    from wordsight.cli.loading import ModelOptions

    transfers = transfer.TransferOptions(copy_to, move_to, dry_run, yes, tuple(images))
    run_classify(
        images,
        table_options(image_column, text_column, label_column, image_root, names),
        ModelOptions(model, architecture, averaged, device, runtime, decoding, policy, batch_size, mirror),
        LabelOptions(labels, templates, repeated_labels, multi_label, none_of_these, temperature, calibrate, threshold),
        Outputs(model, out, page, page_limit, why, transfers),
        PrintOptions(top, as_json, quiet, frames_per_s),
    )

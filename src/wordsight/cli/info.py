"""`wordsight info`: versions, devices, extras and the cache, for bug reports."""

from typing import TYPE_CHECKING

from wordsight.cli.options import JsonOption

if TYPE_CHECKING:
    from wordsight.cli.environment import Environment


def info(as_json: JsonOption = False) -> None:
    """Print versions, devices and settings, for bug reports.

    Lists the versions of wordsight, Python and the packages it uses, the devices, which extras are installed, the size
    of the cache, and the environment variables that affect wordsight.

    Tokens and passwords are never printed.

    \b
    Example:
      wordsight info
    """
    from wordsight.cli.environment import as_dict, describe_environment
    from wordsight.cli.terminal import print_json, print_lines

    environment = describe_environment()
    print_json(as_dict(environment)) if as_json else print_lines(*_describe(environment))


def _describe(environment: "Environment") -> list[str]:
    from wordsight.cli.cache import usage_lines
    from wordsight.cli.terminal import human_bytes

    lines = [f"{name:10} {value}" for name, value in environment.versions.items()]
    lines += ["", "packages"]
    lines += [f"  {name} {version}" for name, version in environment.packages.items()]
    lines += ["", "devices"]
    for device in environment.devices:
        cpus = f", {device.num_available_cpus} of {device.num_cpus} CPUs available" if device.num_cpus else ""
        memory = f", {human_bytes(device.memory_bytes)} of memory" if device.memory_bytes else ""
        lines.append(f"  {device.name}: {device.model}{cpus}{memory}")
    if environment.torch_error:
        lines.append(f"  torch cannot be imported: {environment.torch_error}")
    lines += ["", "extras"]
    for extra in environment.extras:
        missing = f"missing {', '.join(extra.missing)}; {extra.install}"
        lines.append(f"  {extra.name:10} {missing if extra.missing else 'installed'}")
    lines += ["", f"cache: {environment.cache_path}"]
    lines += [f"  {line}" for line in usage_lines(environment.cache)]
    lines += ["", "environment variables"]
    lines += [f"  {name}={value}" for name, value in environment.variables.items()] or ["  none set"]
    return lines

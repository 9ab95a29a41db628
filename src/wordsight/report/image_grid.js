for (const grid of document.querySelectorAll(".image-grid")) {
  const controls = grid.querySelector(".controls"), gallery = grid.querySelector(".gallery");
  const [search, order] = [controls.querySelector("[type=search]"), controls.querySelector(".order")];
  const minima = [...controls.querySelectorAll("[type=number]")], menus = [...controls.querySelectorAll("[data-menu]")];
  const mark = controls.querySelector(".mark"), count = controls.querySelector(".count");
  const images = [...gallery.children].map((card) => ({
    card, values: JSON.parse(card.dataset.values), mark: card.dataset.mark || "", text: card.textContent.toLowerCase(),
  }));
  const number = new Intl.NumberFormat("en");

  function isShown({ values, mark: ownMark, text }) {
    const words = search.value.toLowerCase().split(/\s+/);
    return words.every((word) => text.includes(word))
      && menus.every(({ value, dataset }) => !value || isChosen(values[dataset.menu], value))
      && minima.every(({ value, dataset }) => value === "" || (values[dataset.field] ?? -Infinity) >= Number(value))
      && (!mark || !mark.value || mark.value === ownMark);
  }

  function isChosen(texts, choice) {
    return choice === "none" ? !texts || !texts.length : !!texts && texts.includes(choice.slice(1));
  }

  function compare(a, b) {
    if (!a.length || !b.length) return !a.length - !b.length;  // images without a value come last
    return typeof a[0] === "string" ? a[0].localeCompare(b[0], undefined, { numeric: true }) : a[0] - b[0];
  }

  function sort() {
    const [field, direction] = order.value.split(" ");
    const key = ({ values }) => [values[field] ?? []].flat();
    const sorted = field === "" ? images : [...images].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      return (a.length && b.length ? Number(direction) : 1) * compare(a, b);
    });
    gallery.replaceChildren(...sorted.map(({ card }) => card));
  }

  function filter() {
    let shown = 0;
    for (const image of images) {
      image.card.hidden = !isShown(image);
      shown += !image.card.hidden;
    }
    count.textContent = `${number.format(shown)} of ${number.format(images.length)} images`;
  }

  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", filter);
  controls.addEventListener("reset", () => setTimeout(() => { sort(); filter(); }));
  order.addEventListener("change", sort);
  controls.hidden = false;
  sort();  // browsers keep the state of inputs when a page is loaded again
  filter();
}

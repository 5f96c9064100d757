"""How well a page's texts can be read in a browser: the contrast of each with what is behind it (WCAG 2.2, 1.4.3)."""

FIND_POOR = """
(least) => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  const known = new Map();
  // Any colour of CSS as red, green, blue and alpha, by having the browser draw it.
  const read = color => {
    if (!known.has(color)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = color;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      known.set(color, [r, g, b, a / 255]);
    }
    return known.get(color);
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, c) => value * a + below[c] * (1 - a));
  const luminance = rgb => rgb.map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, c) => sum + value * [0.2126, 0.7152, 0.0722][c], 0);
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = element => {
    const chain = [];
    for (let each = element; each; each = each.parentElement) chain.push(each);
    let color = read("Canvas");
    for (const each of chain.reverse()) color = over(read(getComputedStyle(each).backgroundColor), color);
    return color;
  };
  const opacity = element => {
    let product = 1;
    for (let each = element; each; each = each.parentElement) product *= Number(getComputedStyle(each).opacity);
    return product;
  };
  const poor = [], say = (element, text, color) => {
    const ground = behind(element), [r, g, b, a] = read(color);
    const found = ratio(over([r, g, b, a * opacity(element)], ground), ground);
    const said = `${found.toFixed(2)} ${text.slice(0, 40)} (${element.tagName} ${element.className})`;
    if (found < least) poor.push(said);
  };
  let n = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const {parentElement: element, textContent} = texts.currentNode;
    if (!textContent.trim() || !element.checkVisibility({visibilityProperty: true})) continue;
    if (element.closest("script, style, option, .unseen, :disabled")) continue;
    if (element.closest("svg")) continue;  // It lies on a cluster's colour, which the tests of the colours look at.
    n++;
    say(element, textContent.trim(), getComputedStyle(element).color);
  }
  for (const field of document.querySelectorAll("input[placeholder]:enabled")) {
    if (field.checkVisibility()) say(field, field.placeholder, getComputedStyle(field, "::placeholder").color);
  }
  return {n, poor};
}
"""
"""Takes the least contrast; returns how many texts there are, and those that have less."""

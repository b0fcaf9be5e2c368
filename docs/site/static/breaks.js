// A long name in a table may be broken after a dot, a colon, a slash or an underscore, and nowhere else.
document.addEventListener("DOMContentLoaded", () => {
  for (const code of document.querySelectorAll("td code .pre")) {
    if (code.textContent.length <= 16) continue;
    const parts = code.textContent.split(/(?<=[._:\/])(?=\w)/);
    code.replaceChildren(...parts.flatMap((part, k) => (k ? [document.createElement("wbr"), part] : [part])));
  }
});

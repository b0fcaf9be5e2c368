// A click on the head of a column of a table with the class `sortable` sorts its rows; a second click turns them round.
document.addEventListener("DOMContentLoaded", () => {
  const value = (row, k) => {
    const cell = row.cells[k], text = cell.dataset.sort ?? cell.textContent.trim()
    const number = parseFloat(text.replace(/,/g, "").replace("−", "-"))
    return Number.isNaN(number) ? text.toLowerCase() : number
  }
  const before = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1)
  for (const table of document.querySelectorAll("table.sortable, .sortable table")) {
    const heads = [...table.tHead.rows[0].cells]
    heads.forEach((head, k) => {
      const sort = () => {
        const falling = head.getAttribute("aria-sort") !== "descending"
        heads.forEach((other) => other.removeAttribute("aria-sort"))
        head.setAttribute("aria-sort", falling ? "descending" : "ascending")
        const rows = [...table.tBodies[0].rows].sort((a, b) => before(value(a, k), value(b, k)))
        table.tBodies[0].append(...(falling ? rows.reverse() : rows))
      }
      head.tabIndex = 0
      head.addEventListener("click", sort)
      head.addEventListener("keydown", (e) => e.key === "Enter" && sort())
    })
  }
})

// A link to a picture shows it, instead of saving it.
document.addEventListener("DOMContentLoaded", () => {
  for (const link of document.querySelectorAll("a.download[download]")) link.removeAttribute("download")
})

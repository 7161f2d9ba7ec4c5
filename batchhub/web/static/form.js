// A form that was sent is not sent twice; after errors the summary has the focus. Without this file the forms work the same.

document.getElementById("problems")?.focus();

// What matters in a log is its end.
const log = document.querySelector(".log");
const toTheEnd = () => log.scrollTo(0, log.scrollHeight);
if (log) {
  toTheEnd();
  log.closest("details").addEventListener("toggle", toTheEnd);
}

for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    const button = form.querySelector("button[type=submit]");
    button.setAttribute("aria-disabled", "true");
    button.textContent = form.dataset.once;
  });
}

for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!window.confirm(form.dataset.confirm)) event.preventDefault();
  });
}

// Coming back with the browser's back button: the page is as it was, so the button must work again.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

// A one-time sign-in link carries its secret behind '#': browsers never send that part, so no log on the way holds it.

const found = new URLSearchParams(location.hash.slice(1)).get("link");
const form = document.getElementById("link-form");

if (found && form) {
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.link.value = found;
  document.getElementById("link-words").hidden = false;
  form.submit();
}

// A one-time sign-in link carries its secret behind '#': browsers never send that part, so no log on the way holds it.

const form = document.getElementById("link-form");

function signIn() {
  const found = new URLSearchParams(location.hash.slice(1)).get("link");
  if (!found || !form) return;
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.link.value = found;
  document.getElementById("link-words").hidden = false;
  form.submit();
}

signIn();
addEventListener("hashchange", signIn); // the link was opened where this page was open already: nothing is loaded again

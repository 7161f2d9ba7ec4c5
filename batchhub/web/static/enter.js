// The way into a server at its own host: the button is pressed for those who have scripts.

document.getElementById("enter").submit();

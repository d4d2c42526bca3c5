// The one line about trouble: why the device is of no use now, else what went wrong last.

const line = document.getElementById("problem");

let device = "";
let complaint = "";

/** Shows what went wrong; an empty text takes it back. */
export function complain(text) {
  complaint = text;
  show();
}

/** Shows why the device is of no use, empty once it is; a change outdates earlier complaints. */
export function complainOfDevice(text) {
  if (text === device) return;
  device = text;
  complain("");
}

function show() {
  const text = device || complaint;
  // Unchanged text is left alone: a screen reader would read it again.
  if (line.textContent !== text) line.textContent = text;
  line.hidden = !text;
}

// The one line about trouble: why the device is of no use now, else what went wrong last; and the
// texts that screen readers announce.

const ANNOUNCE_MS = 3000;

const line = document.getElementById("problem");
const announced = document.getElementById("announce");

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

/** Has screen readers announce a text; it is removed, so that they do not read it twice. */
export function announce(text) {
  announced.textContent = text;
  setTimeout(() => (announced.textContent = ""), ANNOUNCE_MS);
}

function show() {
  const text = device || complaint;
  // Unchanged text is left alone: a screen reader would read it again.
  if (line.textContent !== text) line.textContent = text;
  line.hidden = !text;
}

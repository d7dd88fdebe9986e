// What a reader's place is: how far down, what was chosen, dark or light. Back, a reload and new data keep it.

// The browser may refuse to store anything, as it does for a file in a sandbox: then it's kept until the page goes.
function stored(storage, key, value) {
  try {
    if (value === undefined) return JSON.parse(window[storage].getItem(`eexit-${key}`));
    window[storage].setItem(`eexit-${key}`, JSON.stringify(value));
  } catch {
    /* refused */
  }
  return value ?? null;
}

const chosen = stored("sessionStorage", "chosen") || {}; // what the reader chose in the page's controls
const places = stored("sessionStorage", "places") || {}; // entry of the history → pixels from the top
const heights = stored("sessionStorage", "heights") || {}; // chart → pixels down: a page is as long as it was at once
let entry = null;

const choice = (key, otherwise) => chosen[key] ?? otherwise;

function choose(key, value) {
  chosen[key] = value;
  stored("sessionStorage", "chosen", chosen);
}

// Each entry of the history has a name of its own. How far down the reader was, null where they weren't there before.
function arrive() {
  entry = history.state ? history.state.entry : `${Date.now()}-${Math.random()}`;
  if (!history.state) history.replaceState({ entry }, "");
  return places[entry] ?? null;
}

// Another address for the same place, such as that of another token.
const readdress = (hash) => history.replaceState(history.state, "", hash);

function keepPlaces() {
  history.scrollRestoration = "manual"; // the browser's own comes before the page is drawn
  addEventListener(
    "scroll",
    () => {
      if (document.body.dataset.ready) places[entry] = scrollY;
    },
    { passive: true },
  );
  addEventListener("pagehide", () => {
    stored("sessionStorage", "places", places);
    stored("sessionStorage", "heights", heights);
  });
}

// The reader's scroll position, choices and theme, which survive a step back, a reload and new data.

// The browser may refuse to store anything, for example in a sandbox. Values then last until the page is closed.
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
const heights = stored("sessionStorage", "heights") || {}; // chart → height in pixels, reserved before it is drawn so that scroll positions fit
let entry = null;

const choice = (key, otherwise) => chosen[key] ?? otherwise;

function choose(key, value) {
  chosen[key] = value;
  stored("sessionStorage", "chosen", chosen);
}

// Give the current entry of the history a name, if it has none. Returns its scroll position, or null for a first visit.
function arrive() {
  entry = history.state ? history.state.entry : `${Date.now()}-${Math.random()}`;
  if (!history.state) history.replaceState({ entry }, "");
  return places[entry] ?? null;
}

// Change the address without a new entry in the history, for example when another token is selected.
const readdress = (hash) => history.replaceState(history.state, "", hash);

function keepPlaces() {
  history.scrollRestoration = "manual"; // the browser would restore it before the page is drawn
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

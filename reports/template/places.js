// The reader's scroll position, choices and theme, which survive a step back, a reload and new data. Choices are in the
// address too: after its path, as ?key=value&….

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

const chosen = stored("sessionStorage", "chosen") || {}; // the reader's choices in the page's controls
const places = stored("sessionStorage", "places") || {}; // entry of the history → pixels from the top
const heights = stored("sessionStorage", "heights") || {}; // chart → height in pixels, reserved before it is drawn so that scroll positions fit
const offered = new Map(); // this page's choices → their defaults
let entry = null;

function choice(key, otherwise) {
  offered.set(key, otherwise);
  return chosen[key] ?? otherwise;
}

// Returns the reader's choice among names.
function choiceOf(key, names, first = names[0]) {
  const last = choice(key, first);
  return names.includes(last) ? last : first;
}

function choose(key, value) {
  chosen[key] = value;
  stored("sessionStorage", "chosen", chosen);
  readdress(pathOf(location.hash));
}

// If a choice isn't available, the one shown instead replaces it.
function correct(key, value) {
  if (key in chosen) chosen[key] = value;
}

// Returns a part of an address decoded, or unchanged if it can't be.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const pathOf = (hash) => (hash || "#/").split("?")[0];

const readable = (text) =>
  encodeURIComponent(text).replaceAll("%2F", "/").replaceAll("%2C", ",").replaceAll("%20", "+");

// Returns the choices of this page that differ from their defaults, as [key, value].
const choicesMade = () =>
  [...offered].map(([key, otherwise]) => [key, chosen[key] ?? otherwise, otherwise]).filter(([, a, b]) => a !== b);

function queryOf() {
  const parts = choicesMade().map(([key, value]) => `${readable(key)}=${readable(value)}`);
  return parts.length ? `?${parts.join("&")}` : "";
}

// Adopts the choices in an address.
function takeChoices(hash) {
  for (const [key, value] of new URLSearchParams(hash.split("?")[1]))
    chosen[key] = { true: true, false: false }[value] ?? value;
}

// Names the current history entry if it has no name. Returns its scroll position, or null for a first visit.
function arrive() {
  entry = history.state ? history.state.entry : `${Date.now()}-${Math.random()}`;
  if (!history.state) history.replaceState({ entry }, "");
  return places[entry] ?? null;
}

// Changes the address without a new history entry, for example when another token is selected; choices stay.
const readdress = (path) => history.replaceState(history.state, "", path + queryOf());

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

// A page that `--serve` answers with asks now and then whether there is a newer one, and shows what that holds.

let shown = FOLLOW?.name;

async function follow() {
  const said = $("following");
  try {
    const answer = await fetch(location.pathname, { method: "HEAD" });
    if (answer.ok && nameOf(answer) !== shown) await renew();
    said.textContent = answer.ok ? "Follows the sweep" : "The results can't be read now";
  } catch {
    said.textContent = "The server has ended";
  }
  setTimeout(follow, 1000 * FOLLOW.seconds);
}

const nameOf = (answer) => answer.headers.get("ETag").replaceAll('"', "");

const HELD = 'script[type="application/gzip;base64"]:not(#blob-bundle)';

// The newer page's data in place of this one's: the address, what was chosen and how far down the reader is all stay.
async function renew() {
  const answer = await fetch(location.pathname);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll(HELD)) old.remove();
  document.body.append(...fresh.querySelectorAll(HELD));
  for (const found of [cores, details, beside]) found.clear();
  shown = nameOf(answer);
  await load();
  if (DATA.outside.kinds.length && !NONCE) {
    location.reload();
    return;
  } // this page lets no script in from beside it
  listPrompts();
  const focused = document.activeElement,
    label = focused.getAttribute("aria-label");
  await route("renewed");
  if (focused.isConnected) return;
  const again = focused.id
    ? $(focused.id)
    : label && document.querySelector(`main [aria-label="${CSS.escape(label)}"]`);
  if (again) again.focus({ preventScroll: true });
}

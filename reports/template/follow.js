// A page under `--serve` polls its server for a newer page, and then shows the newer data.

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

// Replaces this page's data by the newer page's. The address, the reader's choices and the scroll position stay.
async function renew() {
  const answer = await fetch(location.pathname);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll(HELD)) old.remove();
  document.body.append(...fresh.querySelectorAll(HELD));
  shown = nameOf(answer);
  await load();
  if (DATA.outside.kinds.length && !NONCE) {
    location.reload();
    return;
  } // the content security policy of this page allows no side files
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

// The page of the offers: shows them as they arrive, adds one, and asks for details. It is served beside
// bellwire.min.js, the browser build of clients/js.
import { FailedError, NotSentError, RefusedError, UnknownError, connect } from "./bellwire.min.js";

const find = (id) => document.getElementById(id);
const [list, state, news, form, outcome] = ["offers", "state", "news", "add", "outcome"].map(find);

const path = document.querySelector("meta[name=bellwire]").content;
const url = new URL(path, location.href);
url.protocol = url.protocol === "https:" ? "wss:" : "ws:";

const client = connect(url.href, { onEvent: showState });
// The timers of a hidden page are slow, and those of a page in the back/forward cache stand still.
for (const name of ["online", "pageshow", "visibilitychange"]) addEventListener(name, () => client.reconnect());

/** Makes an element with a text. Texts of peers are never taken for HTML. */
function element(name, text, properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...properties });
}

/** Has a screen reader say a text. */
function announce(text) {
  news.textContent = text;
}

// The connection.

function showState(event) {
  const texts = {
    open: () => "connected",
    bye: () => "the server is leaving",
    lost: () => "connection lost",
    waiting: ({ delay }) => `no connection; next attempt at ${new Date(Date.now() + delay).toLocaleTimeString()}`,
    end: ({ error }) => `ended: ${error ? error.message : "closed"}`,
  };
  if (!texts[event.type]) return;
  state.textContent = texts[event.type](event);
  // Only changes are announced, and not each attempt.
  if (state.dataset.state !== client.state) announce(state.textContent);
  state.dataset.state = client.state;
}

// The list.

/** Shows an offer at the top, or in the place that it has. Focus, and details that are open, stay. */
function showOffer({ id, title, rent }) {
  const details = find(`offer-${id}`) ?? addOffer(id);
  details.querySelector(".title").textContent = title;
  details.querySelector(".rent").textContent = `${rent} €`;
  if (details.open) showDetails(id, details);
}

function addOffer(id) {
  const details = element("details", "", { id: `offer-${id}` });
  const summary = element("summary", "");
  // A title may be in a script that runs from right to left.
  summary.append(element("span", "", { className: "title", dir: "auto" }), element("span", "", { className: "rent" }));
  details.append(summary, element("p", "", { className: "more", dir: "auto", ariaLive: "polite" }));
  details.addEventListener("toggle", () => details.open && showDetails(id, details));
  const item = element("li", "");
  item.append(details);
  list.prepend(item);
  return details;
}

/** Asks for what the list does not have. */
async function showDetails(id, details) {
  const more = details.querySelector(".more");
  more.textContent ||= "…";
  try {
    const { area, city, description } = (await client.call("offers.get", String(id), { idempotent: true })).json();
    more.textContent = [city, area && `${area} m²`, description].filter(Boolean).join(" · ") || "nothing more is known";
  } catch (error) {
    more.textContent = error instanceof FailedError ? explain(error) : "No answer: close it, and open it again.";
  }
}

/** A visible break in the list: something was missed. */
function showGap(text) {
  list.prepend(element("li", text, { className: "gap" }));
  announce(text);
}

const missed = (count) => (count === 1 ? "1 message was missed" : `${count} messages were missed`);

/** Fetches all offers. What is shown already stays where it is, and what is no longer there goes. */
async function fetchAll() {
  const ids = new Set();
  for await (const item of client.stream("offers.list", "", { window: 1024 })) {
    const offer = item.json();
    ids.add(`offer-${offer.id}`);
    showOffer(offer);
  }
  for (const details of list.querySelectorAll("details")) if (!ids.has(details.id)) details.parentElement.remove();
}

/** Shows the offers that are there, and then those that arrive. */
async function follow() {
  // First subscribe, then fetch, then read: nothing falls between. The server may be away for any time.
  const offers = await client.subscribe("offers", { deadline: 2 ** 31 - 1 });
  await fetchAll();
  for await (const delivery of offers) {
    if (delivery.type === "message") await showNews(delivery.json());
    if (delivery.type === "gap") showGap(missed(delivery.last - delivery.first + 1));
    if (delivery.type === "reset") showGap("the server began anew");
    if (delivery.type === "gap" || delivery.type === "reset") await fetchAll();
    if (delivery.type === "end") return showGap(`no more offers come: ${delivery.reason}`);
  }
}

async function showNews({ id }) {
  const offer = (await client.call("offers.get", String(id), { idempotent: true })).json();
  showOffer(offer);
  announce(`New: ${offer.title}, ${offer.rent} €`);
}

/** Begins again until the client has ended: a call may fail while the connection is lost. */
async function followForEver() {
  for (let pause = 500; client.state !== "closed"; pause = Math.min(2 * pause, 30_000)) {
    try {
      return await follow();
    } catch (error) {
      // All offers are fetched again, so nothing is missed by this. Only a refusal is of interest.
      if (error instanceof FailedError || error instanceof RefusedError) showGap(explain(error));
      await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random())));
    }
  }
}

// The form.

/** What an outcome means to a person. */
function explain(error) {
  if (error instanceof FailedError) return `The server says: ${error.message}`;
  if (error instanceof RefusedError) return `Refused, nothing was done: ${error.message}`;
  if (error instanceof NotSentError) return "Not sent: there is no connection.";
  if (error instanceof UnknownError) return "It may have been done or not: look at the list.";
  return String(error);
}

let isSending = false;
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  // A disabled button would lose the focus.
  if (isSending) return;
  const { title, rent, city } = Object.fromEntries(new FormData(form));
  const offer = { title, rent: Number(rent), ...(city ? { city } : {}) };
  // With a key it is added once, however often the client has to send it.
  const key = `${Date.now()}-${Math.random().toString(36).slice(2)}`;
  isSending = true;
  outcome.textContent = "Sending …";
  try {
    const { id } = (await client.call("offers.add", JSON.stringify(offer), { key, deadline: 20_000 })).json();
    outcome.textContent = `Added as number ${id}.`;
    form.reset();
  } catch (error) {
    outcome.textContent = explain(error);
  }
  isSending = false;
});

followForEver();

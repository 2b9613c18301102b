// The page of the offers: shows them as they arrive, adds one, and asks for details. It is served beside
// bellwire.min.js, the browser build of clients/js.
import { FailedError, NotSentError, RefusedError, UnknownError, connect } from "./bellwire.min.js";

const find = (id) => document.getElementById(id);
const [list, state, form, outcome] = ["offers", "state", "add", "outcome"].map(find);

const path = document.querySelector("meta[name=bellwire]").content;
const url = new URL(path, location.href);
url.protocol = url.protocol === "https:" ? "wss:" : "ws:";

const client = connect(url.href, { onEvent: showState });
addEventListener("online", () => client.reconnect());

/** Makes an element with a text. Texts of peers are never taken for HTML. */
function element(name, text, properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...properties });
}

// The connection.

function showState(event) {
  const texts = {
    open: () => "connected",
    bye: () => "the server is leaving",
    lost: () => "connection lost",
    waiting: ({ delay }) => `connecting again in ${Math.ceil(delay / 1000)} s`,
    end: ({ error }) => `ended: ${error ? error.message : "closed"}`,
  };
  if (!texts[event.type]) return;
  state.textContent = texts[event.type](event);
  state.dataset.state = client.state;
}

// The list.

/** Shows an offer at the top, or in the place that it has. */
function showOffer({ id, title, rent }) {
  const known = find(`offer-${id}`);
  const details = element("details", "", { id: `offer-${id}`, open: known?.open ?? false });
  const summary = element("summary", "");
  summary.append(element("span", title, { className: "title" }), element("span", `${rent} €`, { className: "rent" }));
  details.append(summary, element("p", "", { className: "more" }));
  details.addEventListener("toggle", () => details.open && showDetails(id, details));
  if (known) return known.replaceWith(details);
  const item = element("li", "");
  item.append(details);
  list.prepend(item);
}

/** Asks for what the list does not have. */
async function showDetails(id, details) {
  const more = details.querySelector(".more");
  more.textContent = "…";
  try {
    const { area, city, description } = (await client.call("offers.get", String(id), { idempotent: true })).json();
    more.textContent = [city, area && `${area} m²`, description].filter(Boolean).join(" · ") || "nothing more is known";
  } catch (error) {
    more.textContent = explain(error);
  }
}

/** A visible break in the list: something was missed. */
function showGap(text) {
  list.prepend(element("li", text, { className: "gap" }));
}

const missed = (count) => (count === 1 ? "1 message was missed" : `${count} messages were missed`);

/** Fetches all offers. What is shown already stays where it is. */
async function fetchAll() {
  for await (const item of client.stream("offers.list")) showOffer(item.json());
}

/** Shows the offers that are there, and then those that arrive. */
async function follow() {
  // First subscribe, then fetch, then read: nothing falls between.
  const news = await client.subscribe("offers");
  await fetchAll();
  for await (const delivery of news) {
    if (delivery.type === "message") await showNews(delivery.json());
    if (delivery.type === "gap") showGap(missed(delivery.last - delivery.first + 1));
    if (delivery.type === "reset") showGap("the server began anew");
    if (delivery.type === "gap" || delivery.type === "reset") await fetchAll();
    if (delivery.type === "end") return showGap(`no more offers come: ${delivery.reason}`);
  }
}

async function showNews({ id }) {
  const reply = await client.call("offers.get", String(id), { idempotent: true });
  showOffer(reply.json());
}

/** Begins again until the client has ended: a call may fail while the connection is lost. */
async function followForEver() {
  for (let pause = 500; client.state !== "closed"; pause = Math.min(2 * pause, 30_000)) {
    try {
      return await follow();
    } catch (error) {
      showGap(explain(error));
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

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { title, rent, city } = Object.fromEntries(new FormData(form));
  const offer = { title, rent: Number(rent), ...(city ? { city } : {}) };
  const button = form.querySelector("button");
  // With a key it is added once, however often the client has to send it.
  const key = `${Date.now()}-${Math.random().toString(36).slice(2)}`;
  button.disabled = true;
  outcome.textContent = "";
  try {
    const { id } = (await client.call("offers.add", JSON.stringify(offer), { key, deadline: 20_000 })).json();
    outcome.textContent = `Added as number ${id}.`;
    form.reset();
  } catch (error) {
    outcome.textContent = explain(error);
  }
  button.disabled = false;
});

followForEver();

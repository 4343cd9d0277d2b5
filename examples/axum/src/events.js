// Shows at once that the session has ended, no matter where, updates the list of sessions, and shows
// times in the time zone of the browser. The pages work without this script.
"use strict";

const PAUSE = 5000;

let events;

function listen() {
  const list = document.querySelector("[data-names]");
  events = new EventSource(list ? "/events?sessions=yes" : "/events");
  events.addEventListener("signed-out", (event) => signedOut(event.data));
  events.addEventListener("sessions", (event) => {
    if (event.data !== document.querySelector("[data-names]")?.dataset.names) {
      showSessions();
    }
  });
  // The browser reconnects by itself unless the response is not a stream. The status is 401 if the
  // session has ended, and 503 if the lookup failed.
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED) {
      askWhoIsSignedIn();
    }
  });
}

async function askWhoIsSignedIn() {
  const me = await fetch("/api/me").catch(() => null);
  if (me?.status === 401) {
    signedOut("You are signed out.");
  } else {
    setTimeout(listen, PAUSE);
  }
}

// Removes all data of the account from the page.
function signedOut(text) {
  events.close();
  const message = document.querySelector("#signed-out").content.cloneNode(true);
  message.querySelector("p").textContent = text;
  document.querySelector("main").replaceChildren(message);
  document.querySelectorAll("[data-account]").forEach((part) => part.remove());
  document.body.className = "card";
}

async function showSessions() {
  const answer = await fetch("/sessions");
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (answer.ok && events.readyState !== EventSource.CLOSED) {
    document.querySelector("main").replaceWith(page.querySelector("main"));
    useLocalTime();
  }
}

// The server does not know the time zone of the user.
function useLocalTime() {
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "long", timeStyle: "short" });
  for (const element of document.querySelectorAll("time")) {
    const local = format.format(new Date(element.dateTime));
    if (element.textContent === element.title) {
      element.textContent = local;
    }
    element.title = local;
  }
}

// A user who signs out on this page needs no message.
addEventListener("submit", () => events.close());
useLocalTime();
listen();

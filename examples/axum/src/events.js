// Says at once when the session is over, wherever it was ended, and keeps the list of devices up to
// date. Without this script the pages work as well, and notice with the next click.
"use strict";

const PAUSE = 5000;

let events;

function listen() {
  const list = document.querySelector(".devices");
  events = new EventSource(list ? "/events?devices=yes" : "/events");
  events.addEventListener("signed-out", (event) => signedOut(event.data));
  events.addEventListener("devices", (event) => {
    if (event.data !== document.querySelector(".devices")?.dataset.names) {
      showDevices();
    }
  });
  // The browser connects again by itself, but gives up where the answer was no stream: 401 when nobody
  // is signed in any more, 503 when the server cannot tell.
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

// Nothing of the account stays on the screen.
function signedOut(text) {
  events.close();
  const notice = document.querySelector("#signed-out").content.cloneNode(true);
  notice.querySelector("p").textContent = text;
  document.querySelector("main").replaceChildren(notice);
}

async function showDevices() {
  const answer = await fetch("/devices");
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (answer.ok && events.readyState !== EventSource.CLOSED) {
    document.querySelector("main").replaceWith(page.querySelector("main"));
  }
}

// Whoever signs out here knows it.
addEventListener("submit", () => events.close());
listen();

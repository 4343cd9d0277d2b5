// Shows at once that the session has ended, no matter where, and updates the list of sessions. The
// pages work without this script and then show the end at the next request.
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

// A user who signs out on this page needs no message.
addEventListener("submit", () => events.close());
listen();

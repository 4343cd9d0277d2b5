// Runs the browser's part of a ceremony: asks the server for a challenge, has the device sign it, and
// sends the signature.
"use strict";

const form = document.querySelector("#passkey");
const problem = document.querySelector("#problem");

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) {
    throw new Error(await answer.text());
  }
  return answer;
}

async function register(name) {
  const { publicKey } = await (await post("/registration/start", { name })).json();
  const options = PublicKeyCredential.parseCreationOptionsFromJSON(publicKey);
  const credential = await navigator.credentials.create({ publicKey: options });
  await post("/registration/finish", credential);
}

async function signIn(name) {
  const { publicKey } = await (await post("/sign-in/start", { name })).json();
  const options = PublicKeyCredential.parseRequestOptionsFromJSON(publicKey);
  const credential = await navigator.credentials.get({ publicKey: options });
  await post("/sign-in/finish", credential);
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.hidden = true;
  const ceremony = event.submitter?.value === "registration" ? register : signIn;
  try {
    await ceremony(form.elements.name.value);
    location.reload();
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  }
});

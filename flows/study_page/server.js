// What is asked of the study's server. A question that gets no answer is asked again until it does.

const PAUSES = [1, 2, 4, 8]; // seconds between tries; the last one for all later tries
const LONGEST = 20; // seconds that one try may take

/** The server has answered, and refuses; asking again changes nothing. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/**
 * The JSON of an address, asked for until the server answers.
 * @param {string} path relative to the page.
 * @param {object} [options]
 * @param {object} [options.body] sent by POST; without it the address is read.
 * @param {(wake: () => void, why: string) => void} [options.onTrouble] called at each try that
 *   failed, with what makes the next one begin at once, and why it failed.
 * @returns {Promise<object>} what the server said.
 * @throws {Refused} the server refuses for good.
 */
export async function ask(path, { body, onTrouble = () => {} } = {}) {
  for (let tries = 0; ; tries++) {
    try {
      return await tryOnce(path, body);
    } catch (error) {
      if (error instanceof Refused && error.status < 500) throw error;
      const pause = PAUSES[Math.min(tries, PAUSES.length - 1)];
      await new Promise((wake) => {
        setTimeout(wake, 1000 * pause);
        onTrouble(wake, error instanceof Refused ? error.message : "the server does not answer");
      });
    }
  }
}

async function tryOnce(path, body) {
  const sent = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const options = { ...sent, cache: "no-store", credentials: "omit" };
  const answer = await fetch(path, { ...options, signal: AbortSignal.timeout(1000 * LONGEST) });
  if (!answer.ok) throw new Refused(answer.status, await answer.text());
  return await answer.json();
}

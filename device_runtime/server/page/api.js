// Client of the device's HTTP API.

const WORDS = new Map([
  [401, "This device requires an API key."],
  [403, "The device refuses this request."],
  [413, "This conversation is too long to send. Start a new chat."],
  [429, "The device is busy with other requests."],
  [503, "The model is not available at the moment."],
]);

/** A failed request; the message is for the user. `status` is 0 if there was no response. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Returns the JSON at a path relative to the page. */
export async function getJson(path, key) {
  const response = await request(path, { headers: headers(key), cache: "no-store" });
  return response.json();
}

/** Yields the chunks of a streamed chat completion as they arrive. */
export async function* streamChat(body, key, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { ...headers(key), "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = parsed(data);
    if (chunk?.error) throw wordedError(chunk, response.status, response);
    if (Array.isArray(chunk?.choices)) yield chunk;
  }
  throw new ApiError("The connection ended before the answer was complete.");
}

/** Returns what is said in a recording. */
export async function transcribe(sound, key, signal) {
  const form = new FormData();
  form.append("file", sound, "recording.wav");
  const options = { method: "POST", headers: headers(key), body: form, signal };
  try {
    const response = await request("v1/audio/transcriptions", options);
    return (await response.json()).text;
  } catch (error) {
    if (error.status !== 413) throw error;
    throw new ApiError("This recording is too long to send.", error.status);
  }
}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "omit", redirect: "error", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The device cannot be reached. Is it on, and on the same network?");
  }
  if (response.ok) return response;
  throw wordedError(parsed(await response.text()), response.status, response);
}

function wordedError(body, status, response) {
  const error = body?.error ?? {};
  const detail = typeof error.message === "string" ? error.message : "";
  const known = WORDS.get(status);
  const sentence =
    detail && detail[0].toUpperCase() + detail.slice(1) + (/[.!?]$/.test(detail) ? "" : ".");
  const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  // Most errors of the device say it themselves.
  const retry = wait > 0 && !sentence.includes("Try again in") && `Try again in ${wait} s.`;
  const message = [known, sentence, retry].filter(Boolean).join(" ");
  return new ApiError(message || `The device answered with error ${status}.`, status);
}

/** Yields the data of server-sent events (HTML standard, 9.2.6; only the field `data`). */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        return;
      }
      if (piece.done) return;
      const blocks = (rest + piece.value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block
          .split(/\r?\n/)
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trimStart());
        if (data.length) yield data.join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

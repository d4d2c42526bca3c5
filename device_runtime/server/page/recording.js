// Sound as it is sent: what a microphone or a file has, as WAV with the rate that models expect.

const RATE_HZ = 16000;
const HEAD_BYTES = 44;

/** Starts to record; rejects if the microphone cannot be used. */
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.addEventListener("dataavailable", ({ data }) => parts.push(data));
  /** Fulfilled with the recording, also if the microphone is taken away. */
  const ended = new Promise((resolve) => {
    recorder.addEventListener("stop", () => {
      for (const track of stream.getTracks()) track.stop();
      resolve(new Blob(parts, { type: recorder.mimeType }));
    });
  });
  recorder.start();
  return { ended, stop: () => recorder.state === "inactive" || recorder.stop() };
}

/** Returns a file's sound as WAV: 16 kHz, mono, 16 bits; rejects if the browser cannot read it. */
export async function wav(file) {
  // Such a context has no output; its rate is the one that sound is decoded to.
  const context = new OfflineAudioContext(1, 1, RATE_HZ);
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: sound.numberOfChannels }, (_, n) => sound.getChannelData(n));
  const view = new DataView(new ArrayBuffer(HEAD_BYTES + 2 * sound.length));
  writeHead(view);
  for (let index = 0; index < sound.length; index++) {
    let sum = 0;
    for (const channel of channels) sum += channel[index];
    const value = Math.max(-1, Math.min(1, sum / channels.length));
    view.setInt16(HEAD_BYTES + 2 * index, Math.round(value * 0x7fff), true);
  }
  return new Blob([view], { type: "audio/wav" });
}

function writeHead(view) {
  const text = (at, letters) => {
    [...letters].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  };
  const bytes = view.byteLength - HEAD_BYTES;
  text(0, "RIFF");
  view.setUint32(4, bytes + HEAD_BYTES - 8, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // integers
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE_HZ, true);
  view.setUint32(28, 2 * RATE_HZ, true);
  view.setUint16(32, 2, true); // bytes of a sample
  view.setUint16(34, 16, true); // bits of a sample
  text(36, "data");
  view.setUint32(40, bytes, true);
}

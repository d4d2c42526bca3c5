// A picture as it is sent: scaled in the browser, without what the file says of place and time.

import { newId } from "./store.js";

const LONGEST_SIDE_PX = 1024;
const JPEG_QUALITY = 0.9;

/** Returns a file's picture, its `url` being a data: URL; rejects if the browser cannot open it. */
export async function scaled(file) {
  const image = new Image();
  image.src = await dataUrl(file);
  // The browser turns it upright, by its EXIF data.
  await image.decode();
  const { naturalWidth: width, naturalHeight: height } = image;
  const scale = Math.min(1, LONGEST_SIDE_PX / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  // Models see no transparency; so the user sees what they see instead.
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  // Drawings are smaller as PNG, and exact; photos are far smaller as JPEG.
  const png = canvas.toDataURL("image/png");
  const jpeg = canvas.toDataURL("image/jpeg", JPEG_QUALITY);
  return { id: newId(), name: file.name, url: png.length < 2 * jpeg.length ? png : jpeg };
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

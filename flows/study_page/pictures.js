// Pictures are shown when all of a page can be: never one before the other.

const decoding = new Map(); // by name: the promise of a decoded <img>; a page's and the next one's

/**
 * Begins to fetch and decode pictures, and forgets those of pages before.
 * @param {string[]} names as the server gives them, relative to the page.
 */
export function prefetch(names) {
  for (const name of names) {
    if (decoding.has(name)) continue;
    const image = decoded(name);
    image.catch(() => {}); // whoever shows it is told
    decoding.set(name, image);
  }
}

/**
 * An image element for each name, all of them ready to be painted in one frame.
 * @param {string[]} names
 * @throws {Error} one of them cannot be loaded or is no picture.
 */
export async function load(names) {
  prefetch(names);
  try {
    const images = await Promise.all(names.map((name) => decoding.get(name)));
    for (const name of decoding.keys()) if (!names.includes(name)) decoding.delete(name);
    return images.map((image) => image.cloneNode());
  } catch (error) {
    for (const name of names) decoding.delete(name);
    throw error;
  }
}

async function decoded(name) {
  const image = new Image();
  image.draggable = false;
  image.src = name;
  await image.decode();
  return image;
}

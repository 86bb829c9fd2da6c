// Two pictures magnified at once: the same place of both is under the pointer.

const STEP = 3; // what Z and the button magnify by
const MOST = 8;
const SLOP = 0.04; // how far a finger may slip in a tap, of the picture
const NUDGE = 0.08; // how far Shift with an arrow key moves, of the picture

/**
 * Lets windows of equal size show the same part of their pictures.
 *
 * The place is an origin in 0..1 along each axis: 0 shows the left or upper edge, 1 the other one.
 * A mouse moves it by hovering, fingers by pinching and dragging, keys by `nudge`.
 */
export class Zoom {
  #windows;
  #onChange;
  #scale = 1;
  #origin = { x: 0.5, y: 0.5 };
  #fingers = new Map(); // by pointer: where each finger came down and is now, in its window
  #moved = false;

  /**
   * @param {HTMLElement[]} windows each holds one <img>.
   * @param {(isOn: boolean) => void} onChange
   */
  constructor(windows, onChange) {
    this.#windows = windows;
    this.#onChange = onChange;
    for (const one of windows) this.#listen(one);
  }

  get isOn() {
    return this.#scale > 1;
  }

  /** Whether the fingers that have just left were zooming: then their tap is no choice. */
  get wasGesture() {
    return this.#moved;
  }

  toggle() {
    this.#show(this.isOn ? 1 : STEP, this.#origin);
  }

  off() {
    this.#moved = false;
    this.#show(1, { x: 0.5, y: 0.5 });
  }

  /** Moves both pictures by steps along each axis. */
  nudge(x, y) {
    this.#show(this.#scale, { x: this.#origin.x + NUDGE * x, y: this.#origin.y + NUDGE * y });
  }

  #show(scale, { x, y }) {
    this.#scale = Math.min(MOST, scale < 1.05 ? 1 : scale);
    this.#origin = { x: within(x), y: within(y) };
    for (const one of this.#windows) {
      const picture = one.querySelector("img");
      if (!picture) continue;
      picture.style.transformOrigin = `${100 * this.#origin.x}% ${100 * this.#origin.y}%`;
      picture.style.transform = `scale(${this.#scale})`;
    }
    this.#onChange(this.isOn);
  }

  /** Magnifies so that a place of the picture lies under a point of its window; both in 0..1. */
  #hold(place, point, scale) {
    if (scale <= 1) return this.#show(1, point);
    const along = (axis) => (place[axis] * scale - point[axis]) / (scale - 1);
    this.#show(scale, { x: along("x"), y: along("y") });
  }

  /** Which place of the picture is under a point of its window. */
  #placeUnder(point) {
    const along = (axis) => (point[axis] + this.#origin[axis] * (this.#scale - 1)) / this.#scale;
    return { x: along("x"), y: along("y") };
  }

  #listen(one) {
    const pointOf = (event) => {
      const box = one.getBoundingClientRect();
      return { x: (event.clientX - box.x) / box.width, y: (event.clientY - box.y) / box.height };
    };
    one.addEventListener("pointerdown", (event) => {
      if (!this.#fingers.size) this.#moved = false;
      if (event.pointerType === "mouse") return;
      this.#fingers.set(event.pointerId, { down: pointOf(event), now: pointOf(event) });
    });
    one.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse") {
        if (this.isOn) this.#show(this.#scale, pointOf(event));
        else this.#origin = pointOf(event); // where Z will magnify
      } else if (this.#fingers.has(event.pointerId)) {
        this.#follow(event.pointerId, pointOf(event));
      }
    });
    for (const end of ["pointerup", "pointercancel"])
      window.addEventListener(end, (event) => this.#fingers.delete(event.pointerId));
    one.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !this.isOn) return; // an ordinary wheel scrolls the page
        event.preventDefault();
        const point = pointOf(event);
        this.#hold(this.#placeUnder(point), point, this.#scale * Math.exp(-event.deltaY / 200));
      },
      { passive: false },
    );
  }

  #follow(pointer, point) {
    const before = [...this.#fingers.values()].map((finger) => finger.now);
    const place = this.#placeUnder(middle(before));
    const finger = this.#fingers.get(pointer);
    finger.now = point;
    const now = [...this.#fingers.values()].map((one) => one.now);
    const pinches = now.length > 1;
    const wider = pinches ? distance(now) / Math.max(0.01, distance(before)) : 1;
    if (pinches || distance([finger.down, point]) > SLOP) this.#moved = true;
    if (pinches || (this.isOn && this.#moved)) this.#hold(place, middle(now), this.#scale * wider);
  }
}

function within(value) {
  return Math.min(1, Math.max(0, value));
}

function middle(points) {
  const mean = (axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
  return { x: mean("x"), y: mean("y") };
}

function distance([one, other]) {
  return Math.hypot(one.x - other.x, one.y - other.y);
}

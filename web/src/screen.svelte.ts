// The screen the page is on.

class Screen {
  /** The first picture stands: what it can do without may follow. */
  settled = $state(false)
  /** Too narrow for the drawing side by side: its parts are stacked. */
  narrow = $state(false)

  constructor() {
    const narrow = window.matchMedia('(max-width: 1180px)')
    this.narrow = narrow.matches
    narrow.addEventListener('change', () => (this.narrow = narrow.matches))
  }

  get calm(): boolean {
    return window.matchMedia('(prefers-reduced-motion: reduce)').matches
  }
}

export const screen = new Screen()

// The screen the page is on.

class Screen {
  /** The first picture stands: what it can do without may follow. */
  settled = $state(false)
  /** Too narrow for the drawing side by side: its parts are stacked. */
  narrow = $state(false)

  width = $state(window.innerWidth)
  height = $state(window.innerHeight)

  constructor() {
    window.addEventListener('resize', () => ([this.width, this.height] = [window.innerWidth, window.innerHeight]))
    const narrow = window.matchMedia('(max-width: 1180px)')
    this.narrow = narrow.matches
    narrow.addEventListener('change', () => (this.narrow = narrow.matches))
  }

  get calm(): boolean {
    return window.matchMedia('(prefers-reduced-motion: reduce)').matches
  }
}

export const screen = new Screen()

// What the pointer or the keyboard is on, said beside it: one for the whole page.

export interface ReadOut {
  /** What it is, in words. */
  line: string
  /** Its name in the record with indices, and its value. */
  name: string
  /** The formula that made it, in words of the record. */
  formula?: string
  /** Where to show it, in window coordinates. */
  x: number
  y: number
}

class Pointer {
  private said = $state.raw<ReadOut | null>(null)
  private byKeys = false

  get readout(): ReadOut | null {
    return this.said
  }

  /** What the keyboard reads stays when the page scrolls a picture away under a resting mouse. */
  set readout(readout: ReadOut | null) {
    const pointing = window.event instanceof PointerEvent
    if (readout === null && this.byKeys && pointing) return
    this.byKeys = readout !== null && !pointing
    this.said = readout
  }
}

export const pointer = new Pointer()

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
  readout = $state.raw<ReadOut | null>(null)
}

export const pointer = new Pointer()

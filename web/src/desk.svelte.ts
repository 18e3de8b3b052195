// The desk: the drawing one looks at, and a second one beside it when two runs are compared.

import { Stage } from './stage'

class Desk {
  readonly first = new Stage(0)
  second = $state.raw<Stage | null>(null)
  stages = $derived(this.second ? [this.first, this.second] : [this.first])
}

export const desk = new Desk()

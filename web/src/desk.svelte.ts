// The desk: the drawing one looks at, and a second one beside it when two runs are compared.

import { say } from './messages'
import { Stage } from './stage'

class Desk {
  readonly first = new Stage(0)
  second = $state.raw<Stage | null>(null)
  stages = $derived(this.second ? [this.first, this.second] : [this.first])
  /** The first position at which the two texts differ; null: nowhere, or there is one text only. */
  partsAt = $derived.by(() => {
    const [ours, theirs] = [this.first, this.second].map((stage) => stage?.session.run?.tokens)
    if (!ours || !theirs) return null
    const at = ours.findIndex((id, t) => id !== theirs[t])
    if (at >= 0) return at
    return ours.length === theirs.length ? null : ours.length
  })

  /** Puts a second drawing beside the first: the same text on the same model, for one of the two to be changed. */
  compare(): Stage {
    if (!this.second) {
      this.second = new Stage(1)
      this.second.session.join(this.first.session)
    }
    return this.second
  }

  /** What a part of a drawing is called, told from the same part of the other. */
  named(part: string, stage: Stage): string {
    return this.second ? say('compare.part', { part, letter: this.letter(stage) }) : part
  }

  letter(stage: Stage): string {
    return 'AB'[stage.id]
  }

  /** Takes the second drawing away. */
  alone(): void {
    this.second?.session.leave()
    this.second = null
  }
}

export const desk = new Desk()

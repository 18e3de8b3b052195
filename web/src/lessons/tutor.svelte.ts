// Guided tours through the reader's own text. A step points at a real element and either asks for a guess, before what
// it is about is shown, or waits until the reader has done something; then it says what has come of it.

import type { Key } from '../messages'
import type { Stage } from '../stage'

export interface Choice {
  text: string
  right: boolean
}

/** What a step's `done` compares with: how things stood when the step began. */
export interface Before {
  text: string
  tokens: number[]
  drawn: number
  chosen: number
  opened: Stage['view']['opened']
  trail: string
  heads: number[]
  temperature: number
}

export interface Step {
  /** The sentence: `lesson.<lesson>.<name>`; what has come of it: the same with `.then`. */
  name: string
  /** Where to look, in the drawing. */
  point: string
  /** Covered until the reader has guessed: a selector for all of it, what is most in the way first. */
  veil?: string
  /** A guess, with the answer among them; worked out on the run on screen when the step begins. */
  guess?: (stage: Stage) => Choice[]
  /** True when the reader has done what was asked. */
  done?: (stage: Stage, before: Before) => boolean
  /** What the sentences are filled with. */
  values?: (stage: Stage) => { [name: string]: string | number }
  /** Whether the step says something of this model; without it, of every one. */
  fits?: (stage: Stage) => boolean
  /** Needs a live model. */
  live?: boolean
  /** What has to be on screen for the step: put there when it is not. */
  ready?: (stage: Stage) => void
}

export interface Lesson {
  name: string
  steps: Step[]
}

const kept = 'lessons'

class Tutor {
  lesson = $state.raw<Lesson | null>(null)
  at = $state(0)
  choices = $state.raw<Choice[]>([])
  picked = $state<number | null>(null)
  /** The reader has done what the step asked, once; undoing it does not take it back. */
  did = $state(false)
  finished = $state.raw<string[]>(read())
  before: Before | null = null

  step = $derived(this.lesson?.steps[this.at] ?? null)
  /** What the step was about may be said now. */
  revealed = $derived(this.step !== null && (this.step.guess ? this.picked !== null : this.step.done ? this.did : true))

  begin(lesson: Lesson, stage: Stage): void {
    this.lesson = { ...lesson, steps: lesson.steps.filter((step) => step.fits?.(stage) ?? true) }
    this.go(0, stage)
  }

  go(at: number, stage: Stage): void {
    const lesson = this.lesson!
    if (at >= lesson.steps.length) return this.finish()
    const step = lesson.steps[at]
    step.ready?.(stage)
    const { session, view } = stage
    this.before = {
      text: session.text,
      tokens: session.run?.tokens ?? [],
      drawn: session.drawnCount,
      chosen: view.chosen,
      opened: view.opened,
      trail: view.trail.join(),
      heads: session.run?.blocks.map((_, layer) => view.head(layer)) ?? [],
      temperature: session.settings.temperature,
    }
    this.picked = null
    this.did = false
    this.choices = step.guess?.(stage) ?? []
    this.at = at
  }

  end(): void {
    this.lesson = null
  }

  message(part = ''): Key {
    return `lesson.${this.lesson!.name}.${this.step!.name}${part}` as Key
  }

  private finish(): void {
    this.finished = [...new Set([...this.finished, this.lesson!.name])]
    try {
      localStorage.setItem(kept, this.finished.join())
    } catch {
      // storage may be forbidden: the lesson was still taken
    }
    this.lesson = null
  }
}

function read(): string[] {
  try {
    return localStorage.getItem(kept)?.split(',') ?? []
  } catch {
    return []
  }
}

export const tutor = new Tutor()

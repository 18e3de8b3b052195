// One drawing on the desk: a text on a model (session) and how it is looked at (view). Components find theirs in the
// context, so that two drawings can stand side by side.

import { getContext, setContext } from 'svelte'
import type { Run } from './run'
import { Read, Session } from './session.svelte'
import { View } from './view.svelte'

export class Stage {
  readonly session: Session
  readonly view: View
  /** The river of what an encoder read, above that of the decoder behind it. */
  readonly read: Stage | null
  /** The element that holds the drawing. */
  root: HTMLElement | undefined

  /** `of`: the stage of the decoder, where this one is of what its encoder read. */
  constructor(
    /** Tells its elements from those of the other drawing. */
    readonly id: number,
    readonly of: Stage | null = null,
  ) {
    this.session = of?.session ?? new Session()
    this.view = new View(of ? new Read(this.session) : this.session)
    this.read = of ? null : new Stage(id, this)
    if (!of) this.session.onnewtext = () => this.look()
  }

  /** The run whose river is drawn. */
  get run(): Run | null {
    return this.of ? (this.session.run?.read ?? null) : this.session.run
  }

  private look(): void {
    this.view.look()
    this.read!.view.look()
  }

  /** Closes what is open; the focus goes back to where it was opened. */
  close(): void {
    this.find(`[data-stop="${this.view.opened}"] h2 button`)?.focus({ preventScroll: true })
    this.view.close()
  }

  /** An element of this drawing. */
  find(selector: string): HTMLElement | null {
    const found = [...(this.root?.querySelectorAll<HTMLElement>(selector) ?? [])]
    return found.find((element) => !this.read?.root?.contains(element)) ?? null
  }
}

const key = Symbol('stage')

export const provideStage = (stage: Stage): Stage => setContext(key, stage)
export const useStage = (): Stage => getContext<Stage>(key)

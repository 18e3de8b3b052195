// The texts that grew from a typed one, as a tree: every token appended stays, and can be returned to. So does every one
// that was put in a mask's place.
//
// The step of a draw is the number of tokens drawn on the path so far. A token chosen by hand is no draw and takes none,
// so that the draws of a path are those of Python's generate with the same seed, as long as nothing was chosen.

import type { Settings } from './sampler'

/** The draw a token came from. u null: temperature 0, the most probable was taken. */
export interface Draw {
  seed: number
  step: number
  u: number | null
  settings: Settings
}

export interface Appended {
  token: number
  /** Which token's place it took; null: it came after the last. */
  place: number | null
  /** How a reader sees it. */
  label: string
  /** Null: chosen by hand. */
  draw: Draw | null
  /** Its probability under the settings then, and the model's own. */
  probability: number
  plain: number
}

/** A text as it was typed, on the model that read it. */
export class Typed {
  branches = $state.raw<TokenNode[]>([])
  readonly parent = null

  constructor(
    readonly text: string,
    readonly tokens: number[],
    readonly model: string | null,
    /** What was heard instead of a text. */
    readonly sound: File | null = null,
  ) {}
}

export class TokenNode {
  branches = $state.raw<TokenNode[]>([])
  how = $state.raw<Appended>() as Appended
  /** Length of the text with this token, once a run of it has arrived. */
  end = $state(0)

  constructor(
    readonly parent: Typed | TokenNode,
    how: Appended,
  ) {
    this.how = how
  }
}

export type Place = Typed | TokenNode

/** From the first token appended to this one. */
export function pathTo(place: Place | null): TokenNode[] {
  const path: TokenNode[] = []
  while (place instanceof TokenNode) {
    path.push(place)
    place = place.parent
  }
  return path.reverse()
}

export function typedOf(place: Place): Typed {
  while (place instanceof TokenNode) place = place.parent
  return place
}

const mostTexts = 5

export class Branches {
  /** The texts tokens were appended to, the newest first; the one on screen is always among them. */
  texts = $state.raw<Typed[]>([])
  /** What is on screen. */
  here = $state.raw<Place | null>(null)
  path = $derived(pathTo(this.here))
  typed = $derived(this.here && typedOf(this.here))
  /** How many tokens of the path were drawn: the step of the next draw. */
  drawn = $derived(this.path.filter((node) => node.how.draw).length)

  /** A typed text is on screen; one that is known already keeps its tree. */
  begin(text: string, tokens: number[], model: string | null, sound: File | null = null): void {
    const known = this.texts.find((typed) => typed.text === text && typed.model === model && typed.sound === sound)
    const others = this.texts.filter((typed) => typed !== known && typed.branches.length)
    this.here = known ?? new Typed(text, tokens, model, sound)
    this.texts = [this.here, ...others].slice(0, mostTexts)
  }

  /** A token was appended to `place`. Drawn again or chosen again it is the same branch, and its last draw is kept. */
  grow(place: Place, how: Appended): TokenNode {
    const known = place.branches.find(
      (node) => node.how.token === how.token && node.how.place === how.place && !node.how.draw === !how.draw,
    )
    if (known) known.how = how
    else place.branches = [...place.branches, new TokenNode(place, how)]
    return known ?? place.branches.at(-1)!
  }

  /** Forgets a token and all that grew from it. */
  cut(node: TokenNode): void {
    node.parent.branches = node.parent.branches.filter((other) => other !== node)
  }

  /** Stands where another tree stands, with what led there. */
  join(other: Branches): void {
    if (!other.typed) return
    const { text, tokens, model, sound } = other.typed
    this.begin(text, tokens, model, sound)
    for (const node of other.path) {
      const copy = this.grow(this.here!, node.how)
      copy.end = node.end
      this.here = copy
    }
  }
}

/** The ids of the whole text up to a place. */
export function tokensOf(place: Place): number[] {
  const tokens = [...typedOf(place).tokens]
  for (const { how } of pathTo(place)) tokens[how.place ?? tokens.length] = how.token
  return tokens
}

// What the page knows and does: the run on screen, the settings of the draw, and the conversation with the server.

import { say } from './messages'
import { readsText, tails, writesAfter } from './recording'
import { Run } from './run'
import { Branches, pathTo, tokensOf, typedOf, TokenNode, type Draw, type Place } from './branches.svelte'
import { link } from './link.svelte'
import { listedClasses, listedRows, rank, type Row } from './distribution'
import { filled } from './masks'
import { draw, trace, type Settings } from './sampler'
import * as server from './server'
import type { Input } from './server'
import { addressed, setSession } from './address.svelte'
import { changed } from './typed'

interface Trouble {
  message: string
  fix: string
}

/** Carries a token across the page; resolves when it has arrived. */
type Travel = (token: { id: number; text: string }) => Promise<void>

/** How long each token rests on screen while the page plays, in milliseconds. */
export const paces = { slow: 1500, steady: 250, fast: 0 } as const

/** Nothing is divided, nothing cut: the distribution as the model gives it. */
export const plain: Settings = { temperature: 1, topK: null, topP: null, minP: null, repetitionPenalty: null }

const usualText = 'Once upon a time there was a'
const pause = (milliseconds: number) => new Promise((done) => setTimeout(done, milliseconds))

// Everything the drawing shows comes along while it is small. Of a long text only the last rows do; the others, and a
// head's pattern, are asked for when they are looked at (run.ts).
const mostNumbers = 1_000_000

/** What is looked at of what an encoder read: the token followed there is another one. */
export class Read {
  followed = $state<number | null>(null)

  constructor(private readonly session: Session) {}

  get run(): Run | null {
    return this.session.run?.read ?? null
  }
}

export class Session {
  run = $state.raw<Run | null>(null)
  vocabulary = $state.raw<string[]>([])
  model = $state<string | null>(null)
  trouble = $state.raw<Trouble | null>(null)

  /** The text and the model that are there when nobody asks for others. */
  firstText = usualText
  firstModel: string | null = null
  text = $state(usualText)
  /** The text as it was typed, before anything was drawn. */
  typed = $state(usualText)
  /** What a model that sees was shown last, and what one that listens heard. */
  picture = $state.raw<Blob | null>(null)
  sound = $state.raw<File | null>(null)
  settings = $state<Settings>({ ...plain, temperature: 0.8 })
  seed = $state(7)
  /** Every text tokens were appended to, and where in their trees the run on screen stands. */
  readonly branches = new Branches()
  /** How many tokens of the text on screen were drawn: the step of the next draw. */
  get drawnCount(): number {
    return this.branches.drawn
  }
  playing = $state(false)
  pace = $state<keyof typeof paces>('steady')
  task = $derived(this.run?.task ?? 'continue')
  /** Tokens are appended to what the model has written. */
  writes = $derived(this.run?.writes ?? true)
  /** What is asked of the vector that opens: for the next token, for a masked one, for a class. */
  question = $derived(writesAfter(this.task) ? 'continue' : this.task)
  /** The model wrote its end-of-text token. */
  ended = $derived(this.writes && this.branches.path.length > 0 && this.run?.pieces.at(-1)?.special === true)
  full = $derived(this.writes && this.run !== null && this.run.length >= this.run.spec.context)

  /** The token the reader follows; null: the one the head reads. */
  followed = $state<number | null>(null)
  /** What the chosen model does: that of the run on screen may be another yet. */
  asks = $derived.by(() => link.models.find((entry) => entry.id === this.model)?.task ?? this.task)
  /** The token whose vector the distribution on screen is made of. Where masks are filled the reader chooses it. */
  place = $derived.by(() => {
    if (!this.run) return 0
    return this.task === 'fill' && this.followed !== null ? Math.min(this.followed, this.run.length - 1) : this.run.home
  })
  private logits = $derived(this.run?.logits(this.place) ?? null)
  /** The distribution over tokens as the settings make it, step by step; null for classes: nothing is drawn of them. */
  trace = $derived.by(() =>
    this.logits && !this.run!.classes ? trace(this.logits, this.run!.tokens, this.settings) : null,
  )
  /** Every token or class by its logit, and the model's own probability of each. */
  standing = $derived(this.logits && rank(this.logits, this.run!.header.settings?.exclusive))

  /** Where the next draw falls. */
  next = $derived.by(() => {
    if (!this.trace || (this.task === 'fill' && !this.run!.masks.includes(this.place))) return null
    if (this.trace.argmax) return { id: this.trace.probabilities.indexOf(1), u: null }
    return draw(this.trace.probabilities, this.seed, this.drawnCount)
  })

  /** The rows of the list of next tokens, or of classes. */
  listed = $derived.by((): Row[] => {
    const { logits } = this
    if (logits && this.run!.classes) return listedClasses(logits, this.run!.header.settings?.exclusive !== false)
    return logits && this.trace ? listedRows(logits, this.trace, this.next?.id ?? null) : []
  })

  /** The drawing shows another text than the one in the box. */
  stale = $derived(
    this.trouble !== null || (this.run?.origin === 'stored' && readsText(this.task) && this.run.header.text !== this.text),
  )

  /** Why no token can be appended now; null when one can. */
  hindrance = $derived.by((): 'step.wait' | 'step.text' | 'step.full' | 'step.ended' | 'step.mask' | 'step.filled' | null => {
    if (link.connection !== 'ready' || this.run?.origin !== 'live' || !this.logits) return 'step.wait'
    if (this.trouble) return 'step.text'
    if (this.next === null) return this.run.masks.length ? 'step.mask' : 'step.filled'
    if (this.full) return 'step.full'
    return this.ended ? 'step.ended' : null
  })
  canStep = $derived(this.hindrance === null)

  /** The run on screen came in a file the reader opened: no live one takes its place until another text is typed. */
  laid = $state(false)
  /** A live run of the text will come in the place of what is on screen. */
  get awaits(): boolean {
    return !this.laid && !['absent', 'enclosed', 'locked'].includes(link.connection)
  }

  /** Called when a run of newly typed text is on screen. */
  onnewtext: () => void = () => undefined

  private request = $state.raw<AbortController | null>(null)
  /** Another run is on its way to the screen. */
  get busy(): boolean {
    return this.request !== null
  }
  /** The run asked for last, until it is on screen or given up. */
  private underWay: Promise<unknown> = Promise.resolve()

  label(id: number): string {
    return this.vocabulary[id] ?? `#${id}`
  }

  /** Waits for a live model, which will take over; resolves when the stored run is there to be painted. */
  async open(): Promise<void> {
    const address = addressed()
    const asked = address.get('text')
    this.model = address.get('model')
    if (asked) this.text = this.typed = asked
    setSession(this, address)
    link.listeners.add(this)
    try {
      const { bytes, vocabulary } = await server.stored()
      if (!this.run) this.begin(bytes, vocabulary, asked)
    } catch {
      // without a stored run the page waits for the live one
    }
  }

  /** The stored run is shown. `asked`: the text the address asks for, which stands in the box all the same. */
  begin(bytes: ArrayBuffer, vocabulary: string[], asked: string | null = null): void {
    this.vocabulary = vocabulary
    this.run = new Run(bytes, 'stored', null)
    this.firstText = this.run.header.text ?? usualText
    if (!asked && this.text === usualText) this.text = this.typed = this.firstText
    this.branches.begin(this.run.header.text ?? '', this.run.tokens, null)
    this.onnewtext()
  }

  /** Shows a run that came in a file. `vocabulary`: the text of every token of its model, as far as anybody knows. */
  lay(run: Run, vocabulary: string[]): void {
    this.stop()
    this.request?.abort()
    this.laid = true
    this.trouble = null
    this.vocabulary = vocabulary
    this.run = run
    if (readsText(run.task)) this.text = this.typed = run.header.text ?? run.pieces.map((piece) => piece.text).join('')
    this.branches.begin(this.text, run.tokens, null)
    this.onnewtext()
  }

  /** Shows what another drawing shows, from where this one goes its own way. */
  join(other: Session): void {
    this.model = other.model
    this.vocabulary = other.vocabulary
    this.text = other.text
    this.typed = other.typed
    this.picture = other.picture
    this.sound = other.sound
    this.settings = { ...other.settings }
    this.seed = other.seed
    this.branches.join(other.branches)
    this.run = other.run
    this.onnewtext()
    link.listeners.add(this)
    if (link.connection === 'ready') this.takeOver()
  }

  /** Asks and hears nothing any more. */
  leave(): void {
    this.stop()
    this.request?.abort()
    link.listeners.delete(this)
  }

  /** A live model can be asked: what is on screen is run on it. */
  ready(): void {
    this.firstModel = link.models[0]?.id ?? null
    if (!link.models.some((entry) => entry.id === this.model)) this.model = this.firstModel
    if (link.stopped || this.request) return // nothing is asked for, or it has been already
    this.trouble = null
    this.takeOver()
  }

  lost(): void {
    this.stop()
    this.request?.abort() // it may never be answered
    this.request = null
  }

  private takeOver(): void {
    if (this.laid) return
    const place = this.branches.here
    if (this.run?.origin === 'live' && place instanceof TokenNode) void this.show(place)
    else void this.again()
  }

  /** Runs what the chosen model reads: the text in the box, or the picture; without one there is nothing to run. */
  private async again(): Promise<void> {
    if (this.asks === 'see') return void (this.picture && this.look(this.picture))
    if (this.asks === 'transcribe') return void (this.sound && this.hear(this.sound))
    void this.send({ text: this.text })
  }

  /** A model that sees is shown a picture, the newest alone counting. */
  async look(picture: Blob): Promise<void> {
    this.stop()
    this.laid = false
    this.picture = picture
    await this.send({ image: picture })
  }

  /** A model that listens hears a sound; nothing is written yet. */
  async hear(sound: File): Promise<void> {
    this.stop()
    this.laid = false
    this.sound = sound
    await this.send({ sound, target: [] })
  }

  /** The text was typed: forget what was drawn, run the model, the newest request alone counting. */
  type(text: string): void {
    this.stop()
    this.laid = false
    this.text = this.typed = text
    void this.send({ text })
  }

  reset(): void {
    if (this.branches.typed?.sound) void this.show(this.branches.typed)
    else this.type(this.typed)
  }

  /** Another seed starts another sequence of draws. */
  sow(seed: number | null): void {
    if (seed === null || !Number.isSafeInteger(seed) || seed < 0) return
    this.seed = seed
  }

  choose(model: string): void {
    this.model = model
    if (readsText(this.asks)) this.type(this.typed)
    else void this.again()
  }

  private turn: Promise<unknown> = Promise.resolve()

  /** One token after the other: of two quick steps the second begins where the first has arrived, if nothing was typed. */
  private inTurn(act: () => Promise<boolean>): Promise<boolean> {
    const { typed, model } = this
    const mine = this.turn.then(async () => {
      await this.underWay
      return typed === this.typed && model === this.model && this.hindrance === null && act()
    })
    this.turn = mine.catch(() => undefined)
    return mine
  }

  /** Draw the next token, let it travel, and run the model on the longer text. */
  step(travel?: Travel): Promise<boolean> {
    return this.inTurn(async () => {
      const { id, u } = this.next!
      const how = { seed: this.seed, step: this.drawnCount, u, settings: { ...this.settings } }
      return (await this.append(id, how, travel)) && this.hindrance === null
    })
  }

  /** Append the token the reader chose, whatever would have been drawn. */
  pick(id: number, travel?: Travel): Promise<boolean> {
    this.stop()
    return this.inTurn(() => this.append(id, null, travel))
  }

  /** Appends what was appended before: each id as it is drawn again, or, where it is not or begins with ~, as chosen. */
  async regrow(ids: string[]): Promise<void> {
    for (const told of ids) {
      await this.underWay
      const [id, place] = told.split('@')
      if (place !== undefined) this.followed = Number(place) === this.run?.home ? null : Number(place)
      if (this.hindrance) return
      const token = Number(id.replace('~', ''))
      if (token >= this.vocabulary.length) return
      if (id === String(this.next!.id)) await this.step()
      else await this.append(token, null)
    }
  }

  /** Appends a token, or puts it in the place of the mask that is looked at. */
  private append(id: number, how: Draw | null, travel?: Travel): Promise<boolean> {
    const { branches, trace } = this
    const here = branches.here!
    const label = this.label(id)
    const odds = { probability: trace!.probabilities[id], plain: this.standing!.plain[id] }
    const tokens = [...this.run!.tokens]
    const place = this.task === 'fill' ? this.place : null
    tokens[place ?? tokens.length] = id
    const text = place === null ? null : filled(this.text, this.run!, place, label)
    const arrived = () => {
      branches.here = branches.grow(here, { token: id, label, place, draw: how, ...odds })
      if (place !== null) this.followed = null // the next mask is at hand
      if (text !== null) this.text = text
    }
    return this.send(this.input(here, tokens), arrived, travel?.({ id, text: label }))
  }

  /** What is sent for these tokens to be run; where a decoder wrote them, with what its encoder reads. */
  private input(place: Place, tokens: number[]): Input {
    const { text, sound, tokens: begun } = typedOf(place)
    const target = tokens.slice(begun.length)
    if (sound) return { sound, target }
    return this.asks === 'rewrite' ? { text, target } : { tokens }
  }

  /** Back to a text that stood here before: its very tokens are run again, on the model that read them. */
  async show(place: Place): Promise<void> {
    this.stop()
    this.laid = false
    const { text, model, sound } = typedOf(place)
    if (model !== null && link.models.some((entry) => entry.id === model)) this.model = model
    this.typed = text
    if (!(place instanceof TokenNode)) return sound ? this.hear(sound) : this.type(text)
    await this.send(this.input(place, tokensOf(place)), () => {
      this.branches.here = place
      if (this.task === 'fill') this.followed = null
    })
  }

  /** Forgets a branch; where it was on screen, what it grew from takes its place. */
  async forget(node: TokenNode): Promise<void> {
    if (pathTo(this.branches.here).includes(node)) await this.show(node.parent)
    this.branches.cut(node)
  }

  async play(travel: Travel): Promise<void> {
    this.playing = true
    while (this.playing && (await this.step(this.pace === 'fast' ? undefined : travel))) await pause(paces[this.pace])
    this.playing = false
  }

  stop(): void {
    this.playing = false
  }

  /** How many tokens a text has at most, nearly: a new one for each character that is not in the text on screen. */
  private mostTokens(text: string, model: string): number {
    const { run } = this
    if (run?.header.model.name !== model || run.header.text === null) return text.length
    return Math.min(text.length, Math.max(run.length, run.read?.length ?? 0) + changed(run.header.text, text))
  }

  private wants(length: number): server.Want[] {
    const { layers, width, heads, vocabulary, task } = link.models.find((entry) => entry.id === this.model)!
    const rows = (count: number) => layers * 4 * width * count // of what enters the down projections, about
    const last = tails.find((count) => rows(count) <= mostNumbers) ?? 1
    const side = writesAfter(task) ? '*coder.' : ''
    const square = layers * heads * length * length <= mostNumbers
    return [
      { name: `${side}river`, at: null },
      ...(side || task === 'continue' ? [{ name: 'logits.last', at: null }] : []),
      ...(task === 'see' ? [{ name: 'image', at: null }] : []),
      ...(task === 'transcribe' ? [{ name: 'encoder.frames', at: null }] : []),
      ...(task === 'classify' || task === 'see' || (task === 'fill' && vocabulary * length <= mostNumbers) ? [{ name: 'logits', at: null }] : []),
      { name: `${side}embed`, at: width * length > mostNumbers ? `-${tails[0]}:` : null },
      { name: `${side}blocks.*.mlp.hidden`, at: rows(length) > mostNumbers ? `-${last}:` : null },
      ...(square ? [{ name: `${side}blocks.*.attn.pattern`, at: null }] : []),
      ...(side ? [{ name: 'decoder.blocks.*.cross.mean', at: null }] : []),
      ...(side && square ? [{ name: 'decoder.blocks.*.cross.pattern', at: null }] : []),
    ]
  }

  /**
   * One run at the server; true when its record is on screen. `arrived`: called as it gets there. `hold`: wait for this
   * before showing it.
   */
  private send(input: Input, arrived?: () => void, hold?: Promise<void>): Promise<boolean> {
    const sent = this.sendNow(input, arrived, hold)
    this.underWay = sent
    return sent
  }

  private async sendNow(input: Input, arrived?: () => void, hold?: Promise<void>): Promise<boolean> {
    this.request?.abort()
    if (link.connection !== 'ready' || this.model === null) return false
    if ('text' in input && input.text === '') {
      this.trouble = { message: say('state.empty'), fix: '' }
      return false
    }
    const request = (this.request = new AbortController())
    const model = this.model
    try {
      const entry = link.models.find(({ id }) => id === model)!
      const length = 'tokens' in input ? input.tokens.length : 'text' in input ? this.mostTokens(input.text, model) : (entry.sound?.length ?? entry.context)
      const asked = server.run(model, input, this.wants(length), request.signal)
      const [{ bytes, record }, words] = await Promise.all([asked, link.words(model), hold])
      if (request.signal.aborted) return false
      this.vocabulary = words
      this.run = new Run(bytes, 'live', {
        record,
        tensor: (name, at, signal) => server.tensor(record, name, at, signal),
        explain: (cell) => server.explain(record, cell),
      })
      this.trouble = null
      if ('text' in input && !('target' in input)) {
        this.branches.begin(input.text, this.run.tokens, model)
        this.onnewtext()
      } else if ('image' in input) {
        this.branches.begin('', [], model)
        this.onnewtext()
      } else if ('sound' in input && input.target.length === 0) {
        this.branches.begin(this.sound!.name, this.run.tokens, model, input.sound)
        this.onnewtext()
      } else if (this.run.header.text !== null) this.text = this.run.header.text
      arrived?.()
      if (this.branches.here instanceof TokenNode) this.branches.here.end = this.text.length
      return true
    } catch (error) {
      if (request.signal.aborted) return false
      if (error instanceof server.Unreachable) link.lose()
      else if (error instanceof server.Refusal) this.trouble = { message: error.message, fix: error.fix }
      else this.trouble = { message: say('state.broken', { message: String(error) }), fix: say('state.broken.fix') }
      return false
    } finally {
      if (this.request === request) this.request = null
    }
  }
}

// What the reader looks at in one opened MLP: the neurons at the chosen token, and one of them.

import { largestOf, movedBy, ofToken, sparsity, type Moved } from '../../neurons'
import { quoted } from '../../pieces'
import type { Stage } from '../../stage'

export type What = 'up' | 'gate' | 'hidden'

/** Rows of the field: how many neurons at first, and how many at most. */
const first = 10
const most = 40

export class Neurons {
  all = $state(false)
  private picked = $state.raw<{ layer: number; neuron: number } | null>(null)

  constructor(
    private readonly stage: Stage,
    private readonly number: () => number,
  ) {}

  readonly layer = $derived.by(() => this.number())
  readonly run = $derived.by(() => this.stage.run!)
  readonly place = $derived(`${this.run.block(this.layer)}.mlp`)
  readonly mlp = $derived(this.run.blocks[this.layer].mlp)
  readonly weights = $derived(`${this.run.weights('stack')}.blocks.${this.layer}.mlp`)
  readonly token = $derived.by(() => this.stage.view.chosen)
  readonly text = $derived(quoted(this.run.pieces[this.token].text))

  /** (F) at the chosen token; undefined on its way, null where this run has none. */
  readonly hidden = $derived(this.run.hidden(this.layer, this.token) ?? ofToken(this.run, `${this.place}.hidden`, this.token))
  readonly up = $derived(ofToken(this.run, `${this.place}.up`, this.token))
  readonly gate = $derived(this.mlp.gated ? ofToken(this.run, `${this.place}.gate`, this.token) : null)
  /** (D) */
  readonly out = $derived(ofToken(this.run, `${this.place}.out`, this.token))
  /** How far each neuron moves the stream. */
  readonly strength = $derived(ofToken(this.run, `${this.place}.strength`, this.token))

  /** All neurons, the most active first. */
  readonly ranking = $derived.by(() => {
    const by = this.strength === undefined ? null : (this.strength ?? this.hidden)
    return by ? largestOf(by, by.length) : []
  })
  readonly sparsity = $derived(this.hidden ? sparsity(this.hidden, this.strength ?? null) : null)

  /** The neuron shown large: the one that was picked, otherwise the most active one. */
  readonly neuron = $derived(this.picked?.layer === this.layer ? this.picked.neuron : this.ranking[0])
  /** The neurons of the list; the one shown large stays in it. */
  readonly listed = $derived.by(() => {
    const shown = this.ranking.slice(0, this.all ? most : first)
    return this.neuron === undefined || shown.includes(this.neuron) ? shown : [...shown, this.neuron]
  })
  readonly more = $derived(Math.min(most, this.ranking.length) - first)

  pick(neuron: number): void {
    if (neuron >= 0 && neuron < this.mlp.hidden) this.picked = { layer: this.layer, neuron }
  }

  cell(what: What, neuron: number, token = this.token): string {
    return `${this.place}.${what}[${token},${neuron}]`
  }

  explain(cell: string): void {
    this.stage.view.explain(cell)
  }

  label(id: number): string {
    return this.stage.session.label(id)
  }

  /**
   * Each neuron moves the logits in a direction of its own, the same in every text: not where a layer stands between, or
   * a decoder reads what comes of it.
   */
  private get directed(): boolean {
    const { ending, spec } = this.run
    return ending !== 'read' && !spec.head.transform && !spec.head.pool
  }

  /** The token a neuron raises most, with the sign its value has now; undefined on its way, null where nobody says. */
  raised(neuron: number): number | null | undefined {
    if (!this.directed) return null
    const ids = this.run.get(`${this.place}.${this.hidden![neuron] < 0 ? 'demotes' : 'promotes'}.ids`, neuron)
    return ids && ids.data[0]
  }

  /** What it does to logits now. */
  moved(neuron: number): { raised: Moved[]; lowered: Moved[] } | null | undefined {
    if (!this.directed) return null
    const [promotes, demotes] = [this.column('promotes', neuron), this.column('demotes', neuron)]
    if (!promotes || !demotes) return promotes === null ? null : undefined
    return movedBy(this.hidden![neuron], promotes, demotes)
  }

  private column(way: 'promotes' | 'demotes', neuron: number): Moved[] | null | undefined {
    const [ids, values] = ['ids', 'values'].map((part) => this.run.get(`${this.place}.${way}.${part}`, neuron))
    if (!ids || !values) return ids === null ? null : undefined
    return [...ids.data].map((id, i) => ({ id, unit: values.data[i], moved: 0 }))
  }
}

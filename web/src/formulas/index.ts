// The formulas of the page. <Formula name="attn.scores" values={...} /> (Formula.svelte) shows one:
//
//   image  embed  embed.patch  embed.sound  conv1  pos.learned  pos.sinusoid  segment  relative.bias  stream.first  stream.next
//   norm.rms  norm.layer  norm.none
//   attention  attn.q  attn.k  attn.v  attn.q_rot  attn.k_rot  attn.q_rot.none  attn.k_rot.none
//   attn.scores  attn.pattern  attn.z  attn.out
//   resid_mid  resid_post  resid_cross  resid_post.crossed
//   block.chain  block.crossed  block.parallel  river
//   mlp.up  mlp.gate  mlp.hidden.plain  mlp.hidden.gated  mlp.out
//   act.gelu  act.gelu_tanh  act.relu  act.silu  act.tanh
//   final  head.up  head.hidden  logits  logits.two
//   repetition  temperature  argmax  top-k  top-p  min-p  draw
//
// The names in braces in sources.ts are its `values`. For a number of the record `formulasOf(rule, spec, layer)` knows
// which formulas made it in this model, and their constants.

import type { AttentionSpec, BlockSpec, NormSpec, Spec } from '../cutawayfile'
import type { Values } from './shown'
import type { FormulaName } from './sources'

export type { FormulaName } from './sources'
export interface Shown {
  name: FormulaName
  values: Values
}

/** The formulas by which a rule of src/cutaway/look/explain makes its number, with this model's constants. */
export function formulasOf(rule: string, spec: Spec, layer: number | null): Shown[] {
  const block = spec.stack.blocks[layer ?? 0]
  const { mlp } = block
  const crossing = rule.startsWith('cross.')
  const attn = crossing ? block.cross! : block.attn
  const letter = rule.split('.').at(-1)!
  const made = rule.replace('cross.', 'attn.') // one attention as the other: only what is read is not the same
  switch (made) {
    case 'image':
      return [{ name: 'image', values: {} }]
    case 'embed':
      if (spec.stem.bins) return [{ name: 'embed.sound', values: {} }, { name: 'act.gelu', values: {} }]
      return [spec.stem.patch ? { name: 'embed.patch', values: {} } : { name: 'embed', values: { scale: unlessOne(spec.stem.scale) } }]
    case 'frames':
      return [] // made of the sound before the model saw it
    case 'conv1':
      return [{ name: 'conv1', values: {} }, { name: 'act.gelu', values: {} }]
    case 'pos':
      return [{ name: spec.stem.positions?.kind === 'sinusoid' ? 'pos.sinusoid' : 'pos.learned', values: {} }]
    case 'segment':
      return [{ name: 'segment', values: {} }]
    case 'relative.bias':
      return [{ name: 'relative.bias', values: {} }]
    case 'resid_pre':
      if (layer) return [{ name: 'stream.next', values: {} }]
      return [
        { name: 'stream.first', values: { added: spec.stem.positions !== null, segments: spec.stem.segments > 0, norm: Boolean(spec.stem.norm) } },
        ...(spec.stem.norm ? [normed(spec.stem.norm)] : []),
      ]
    case 'attn.in':
    case 'mlp.in':
      return [normed(block.slots.includes('pre') ? block.norm : null)]
    case 'final':
      return [normed(spec.stack.final_norm)]
    case 'attn.q':
    case 'attn.k':
    case 'attn.v': {
      const norm = letter !== 'v' && attn.qk_norm !== null
      const sum: Shown = { name: made, values: { bias: attn.bias.includes(letter), norm } }
      return norm ? [sum, normed(block.norm)] : [sum]
    }
    case 'attn.q_rot':
    case 'attn.k_rot':
      if (!attn.rope) return [{ name: `${made}.none`, values: {} }]
      return [{ name: made, values: { turned: attn.rope.width, base: attn.rope.base, scaled: attn.rope.scaling !== null } }]
    case 'attn.scores':
      return [scores(attn, spec.stack.relative !== null && !crossing)]
    case 'attn.pattern':
      return [{ name: made, values: { causal: attn.causal, window: attn.window } }]
    case 'attn.z':
      return [{ name: made, values: { shared: sharing(attn) } }]
    case 'attn.out':
      return leaving(block, made, attn.bias.includes('o'))
    case 'mlp.out':
      return leaving(block, made, mlp.bias)
    case 'resid_mid':
    case 'resid_cross':
    case 'resid_post': {
      const norm = block.slots.includes('stream')
      const name = made === 'resid_post' && block.cross ? 'resid_post.crossed' : made
      return [{ name, values: { norm } }, ...(norm ? [normed(block.norm)] : [])]
    }
    case 'mlp.up':
    case 'mlp.gate':
      return [{ name: made, values: { bias: mlp.bias } }]
    case 'mlp.hidden':
      return [
        { name: mlp.gated ? 'mlp.hidden.gated' : 'mlp.hidden.plain', values: { act: mlp.activation.replace('_tanh', '') } },
        { name: `act.${mlp.activation}` as FormulaName, values: {} },
      ]
    case 'head.up':
      return [{ name: made, values: {} }]
    case 'head.hidden': {
      const [act, norm] = spec.head.transform!
      const sum: Shown = { name: made, values: { act: act.replace('_tanh', ''), norm: norm !== null } }
      return [sum, { name: `act.${act}` as FormulaName, values: {} }, ...(norm ? [normed(norm)] : [])]
    }
    case 'logits':
    case 'logits.last': {
      const { tied, bias, scale, softcap, transform, pool } = spec.head
      if (pool === 'first_two') return [{ name: 'logits.two', values: { bias } }]
      return [{ name: 'logits', values: { tied, bias, softcap, scale: unlessOne(scale), layered: transform !== null } }]
    }
    case 'river':
      return [{ name: 'river', values: {} }]
    default:
      return []
  }
}

/** How a block's two branches join the stream. */
export function blockFormula({ parallel, slots, cross }: BlockSpec): Shown {
  const values = Object.fromEntries(slots.map((slot) => [slot, true]))
  return { name: parallel ? 'block.parallel' : cross ? 'block.crossed' : 'block.chain', values }
}

export const normed = (norm: NormSpec | null): Shown =>
  norm ? { name: `norm.${norm.kind}`, values: { eps: norm.eps } } : { name: 'norm.none', values: {} }

const scores = (attn: AttentionSpec, relative: boolean): Shown => ({
  name: 'attn.scores',
  values: {
    scale: attn.scale,
    unscaled: attn.scale === 1,
    softcap: attn.softcap,
    relative,
    shared: sharing(attn),
    turned: attn.rope !== null,
  },
})

function leaving(block: BlockSpec, name: 'attn.out' | 'mlp.out', bias: boolean): Shown[] {
  const norm = block.slots.includes('post')
  return [{ name, values: { bias, norm } }, ...(norm ? [normed(block.norm)] : [])]
}

/** How many heads share one key and value; nothing where each has its own. */
function sharing(attn: AttentionSpec): number | null {
  return attn.heads === attn.kv_heads ? null : attn.heads / attn.kv_heads
}

const unlessOne = (scale: number) => (scale === 1 ? null : scale)

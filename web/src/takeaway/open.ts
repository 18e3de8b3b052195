// A .cutaway file the reader brings: checked as a whole before anything of it is shown.

import { isTwoStacks, parse, NotACutawayFile, sideOf, type RecordFile, type RecordHeader, type Side, type Spec } from '../cutawayfile'
import { link } from '../link.svelte'
import { say } from '../messages'
import { Run } from '../run'
import type { Session } from '../session.svelte'
import { bytes } from './size'

/** Parsed as a whole, in memory. */
const most = 400 * 2 ** 20

/** Shows the run of a file; resolves to a sentence about it. */
export async function openFile(session: Session, file: File): Promise<string> {
  const { name } = file
  if (file.size > most) return say('run.bad.large', { name, size: bytes(file.size), most: bytes(most) })
  try {
    const content = await file.arrayBuffer()
    check(parse(content))
    const run = new Run(content, 'stored', null)
    const words = await wordsOf(run)
    session.lay(run, words)
    return [say('run.opened', { name }), words.length ? '' : say('run.wordless')].join(' ').trim()
  } catch (error) {
    const kind = error instanceof NotACutawayFile ? error.kind : 'impossible'
    return say(`run.bad.${kind}`, { name, message: String((error as Error).message) })
  }
}

/** What the drawing leans on must hold together, or half a page would be drawn. */
function check({ header, names, entry }: RecordFile): void {
  const sides: Side[] = isTwoStacks(header.spec) ? ['encoder.', 'decoder.'] : ['']
  for (const side of sides) checkSide(header, side)
  const { head } = header.spec
  const { length } = header.tokens
  if (typeof header.model?.name !== 'string') throw new NotACutawayFile('it does not name its model')
  const { masks } = header.settings ?? {}
  if (masks !== undefined && !(Array.isArray(masks) && masks.every((at) => Number.isSafeInteger(at) && at >= 0 && at < length)))
    throw new NotACutawayFile('its masks are none of its tokens')
  for (const name of names) {
    const sizes = extents(header, name)
    const axes = axesOf(name, head.pool != null)
    const { shape } = entry(name)
    if (axes && (shape.length !== axes.length || axes.some((axis, i) => sizes[axis] !== shape[i]))) throw new NotACutawayFile(`the shape of ${name}`)
  }
}

function checkSide(header: RecordHeader, side: Side): void {
  const { spec, tokens, pieces } = sideOf(header, side)
  const { stack, head, context, stem } = spec ?? {}
  const counts = [stack?.width, head?.size, context, ...(stack?.blocks ?? []).flatMap(({ attn, mlp }) => [attn?.heads, attn?.kv_heads, attn?.width, mlp?.hidden])]
  if (!Array.isArray(stack?.blocks) || !stack.blocks.length || !counts.every((n) => Number.isSafeInteger(n) && n > 0))
    throw new NotACutawayFile('its spec is that of no Transformer of the page')
  const seen = Boolean(stem?.patch || stem?.bins)
  if (!Array.isArray(tokens) || tokens.length === 0 !== seen || !tokens.every((id) => Number.isSafeInteger(id) && id >= 0))
    throw new NotACutawayFile('it has no tokens')
  if ((stem.patch || pieces.length) && (pieces.length !== lengthOf(spec, tokens) || pieces.some(({ text }) => typeof text !== 'string')))
    throw new NotACutawayFile('its pieces are not those of its tokens')
}

/** How many positions there are: tokens, patches of a picture, or stretches of a sound. */
const lengthOf = ({ stem }: Spec, tokens: number[]) => tokens.length || (stem.patch ? patches(stem) : stem.length)

/** How many tokens a picture is: its patches, and what stands before them. */
const patches = ({ image, patch, extra_tokens: extra }: Spec['stem']) => Math.floor(image / patch!) ** 2 + extra

const ends: [RegExp, string][] = [
  [/^(encoder\.|decoder\.)?(embed|pos|segment|final|head\.up|head\.hidden)$|\.(resid_pre|resid_mid|resid_cross|resid_post)$|\.(attn|cross|mlp)\.(in|out)$/, 'T D'],
  [/\.(attn|cross)\.(q|q_rot|z)$/, 'T H E'],
  [/\.attn\.(k|k_rot|v)$/, 'T K E'],
  [/\.cross\.(k|k_rot|v)$/, 'S K E'],
  [/\.attn\.(scores|pattern)$/, 'H T T'],
  [/\.cross\.(scores|pattern)$/, 'H T S'],
  [/\.attn\.(mean|max)$/, 'T T'],
  [/\.cross\.(mean|max)$/, 'T S'],
  [/\.mlp\.(up|gate|hidden|strength)$/, 'T F'],
  [/^logits\.last$/, 'V'],
  [/^logits$/, 'T V'],
  [/^(encoder\.|decoder\.)?river$/, 'stop T'],
  [/^image$/, 'C Y X'],
  [/^alike$/, 'stop T T'],
] // prettier-ignore

/** `pooled`: the head reads one token only, and what it makes has no axis for them. */
function axesOf(name: string, pooled: boolean): string[] | undefined {
  const axes = ends.find(([end]) => end.test(name))?.[1].split(' ')
  return pooled && /^(head|logits)\b/.test(name) ? axes?.filter((axis) => axis !== 'T') : axes
}

function extents(header: RecordHeader, name: string): { [axis: string]: number } {
  const side = isTwoStacks(header.spec) ? (name.startsWith('encoder.') ? 'encoder.' : 'decoder.') : ''
  const { spec, tokens } = sideOf(header, side)
  const read = sideOf(header, 'encoder.')
  const block = spec.stack.blocks[Number(/^(?:encoder\.|decoder\.)?blocks\.(\d+)\./.exec(name)?.[1] ?? 0)]
  if (!block) throw new NotACutawayFile(`${name} is of no block`)
  return {
    T: lengthOf(spec, tokens), S: lengthOf(read.spec, read.tokens), D: spec.stack.width, V: spec.head.size,
    stop: (block.cross ? 3 : 2) * spec.stack.blocks.length + 1,
    H: block.attn.heads, K: block.attn.kv_heads, E: block.attn.width, F: block.mlp.hidden,
    C: spec.stem.channels, Y: spec.stem.image, X: spec.stem.image,
  } // prettier-ignore
}

/** The words of the model that made a run: out of the file, or from a server that has a model of that name and size. */
async function wordsOf(run: Run): Promise<string[]> {
  const { vocabulary, model, spec } = run.header
  if (Array.isArray(vocabulary) && vocabulary.every((word) => typeof word === 'string')) if (vocabulary.length) return vocabulary
  const known = link.models.find((entry) => entry.name === model.name && entry.vocabulary === spec.head.size)
  return known ? link.words(known.id).catch(() => []) : []
}

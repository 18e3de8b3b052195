import { describe, expect, it } from 'vitest'
import { Branches, pathTo, tokensOf, TokenNode, type Appended } from '../src/branches.svelte'

const settings = { temperature: 1, topK: null, topP: null, minP: null, repetitionPenalty: null }
const odds = { probability: 0.5, plain: 0.25 }
const drawn = (token: number, step = 0, seed = 7): Appended => ({ token, label: `t${token}`, place: null, draw: { seed, step, u: 0.3, settings }, ...odds })
const chosen = (token: number): Appended => ({ token, label: `t${token}`, place: null, draw: null, ...odds })

function grow(tree: Branches, ...hows: Appended[]): void {
  for (const how of hows) tree.here = tree.grow(tree.here!, how)
}

describe('the tree of texts', () => {
  it('keeps every branch and the ids that lead to it', () => {
    const tree = new Branches()
    tree.begin('Once', [1, 2], 'm')
    grow(tree, drawn(10), drawn(11, 1))
    const first = tree.here!
    tree.here = tree.path[0]
    grow(tree, chosen(20), drawn(21, 1))
    expect(tokensOf(tree.here!)).toEqual([1, 2, 10, 20, 21])
    expect(tokensOf(first)).toEqual([1, 2, 10, 11])
    expect(tree.typed!.branches.length).toBe(1)
    expect(tree.path[0].branches.map((node) => node.how.token)).toEqual([11, 20])
  })

  it('puts tokens in the places of masks, in any order', () => {
    const tree = new Branches()
    tree.begin('a [MASK] b [MASK]', [1, 9, 2, 9], 'm')
    grow(tree, { ...drawn(10), place: 3 }, { ...chosen(20), place: 1 })
    expect(tokensOf(tree.here!)).toEqual([1, 20, 2, 10])
    expect(tokensOf(tree.path[0])).toEqual([1, 9, 2, 10])
    expect(tree.grow(tree.typed!, { ...drawn(10), place: 1 })).not.toBe(tree.path[0])
  })

  it('counts the drawn tokens of the path: the step of the next draw', () => {
    const tree = new Branches()
    tree.begin('Once', [1], 'm')
    grow(tree, drawn(10), chosen(20), chosen(21), drawn(11, 1))
    expect(tree.drawn).toBe(2)
    tree.here = tree.path[1]
    expect(tree.drawn).toBe(1)
  })

  it('is one branch when the same token is drawn again, another when it is chosen', () => {
    const tree = new Branches()
    tree.begin('Once', [1], 'm')
    const typed = tree.here!
    const once = tree.grow(typed, drawn(10))
    expect(tree.grow(typed, drawn(10, 0, 8))).toBe(once)
    expect(once.how.draw!.seed).toBe(8)
    expect(tree.grow(typed, chosen(10))).not.toBe(once)
    tree.cut(once)
    expect(typed.branches.map((node) => node.how.draw)).toEqual([null])
  })

  it('keeps the last few texts that grew, and no others', () => {
    const tree = new Branches()
    for (let i = 0; i < 8; i++) {
      tree.begin(`text ${i}`, [i], 'm')
      if (i % 2 === 0) grow(tree, drawn(10))
    }
    expect(tree.texts.map((typed) => typed.text)).toEqual(['text 7', 'text 6', 'text 4', 'text 2', 'text 0'])
    tree.begin('text 4', [4], 'm')
    expect(tree.typed!.branches.length).toBe(1)
    tree.begin('text 4', [4], 'another model')
    expect(tree.typed!.branches.length).toBe(0)
  })

  it('is copied, not shared, when a second drawing starts from it', () => {
    const [tree, other] = [new Branches(), new Branches()]
    tree.begin('Once', [1], 'm')
    grow(tree, drawn(10), chosen(20))
    other.join(tree)
    expect(tokensOf(other.here!)).toEqual(tokensOf(tree.here!))
    grow(other, drawn(30, 1))
    expect((tree.here as TokenNode).branches).toEqual([])
    expect(pathTo(other.here).length).toBe(3)
  })
})

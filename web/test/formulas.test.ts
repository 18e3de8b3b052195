import { expect, test } from 'vitest'
import compiled from 'virtual:formulas'
import { compile, mathml, type Node } from '../src/formulas/compile'
import { empty, shown } from '../src/formulas/shown'
import { sources } from '../src/formulas/sources'
import { number } from '../src/format'

function* elements(node: Node): Generator<[string, { [name: string]: string }]> {
  if (typeof node === 'string') return
  yield [node[0], node[1]]
  for (const child of node.slice(2) as Node[]) yield* elements(child)
}
const text = (node: Node): string => (typeof node === 'string' ? node : (node.slice(2) as Node[]).map(text).join(''))
const written = (name: keyof typeof sources, values = {}) =>
  compiled[name].map((line) => shown(line, values, number)).filter((line) => !empty(line)).map((line) => line.map(text).join(''))

test('every formula is compiled, and what the page gets is what the compiler makes', () => {
  expect(Object.keys(compiled)).toEqual(Object.keys(sources))
  expect(compiled).toEqual(compile())
})

test('nothing the strict policy would refuse is in the output', () => {
  expect(mathml('\\begin{cases} a & b \\end{cases}')).toContain('style=') // what temml would write
  for (const lines of Object.values(compiled))
    for (const line of lines)
      for (const [tag, attributes] of elements(line)) {
        expect(tag).toMatch(/^m[a-z]*$/)
        for (const name of Object.keys(attributes)) expect(name).not.toMatch(/^(style|on|href|src)/)
      }
})

test('roles keep their colours by name', () => {
  const classes = new Set(compiled['attention'].flatMap((line) => [...elements(line)].map(([, { class: c }]) => c)))
  for (const role of ['query', 'key', 'value', 'output', 'weight']) expect(classes).toContain(role)
})

test('a constant is filled in, and what a model lacks is left out', () => {
  const plain = written('attn.scores', { scale: 0.17677 })
  expect(plain).toHaveLength(1)
  expect(plain[0]).toContain('×0.1768')
  expect(plain[0]).not.toContain('tanh')
  const capped = written('attn.scores', { scale: 0.0625, softcap: 50, shared: 4, relative: true })
  expect(capped[0]).toContain('50.00')
  expect(capped[0]).toContain('tanh')
  expect(capped[0]).toContain('+bias')
  expect(plain[0]).not.toContain('rot') // a model that turns nothing
  expect(written('attn.scores', { scale: 0.25, turned: true })[0]).toMatch(/q\s*t,h,e\s*rot|qt,h,e\s*rot/)
  expect(capped[0]).toContain('s,⌊h/4')
  expect(plain[0]).toContain('s,h,e')
  expect(written('attn.z', { shared: 4 })[0]).toContain('s,⌊h/4')
  expect(written('logits', { tied: true })[0]).toMatch(/E/)
  expect(written('logits')[0]).toMatch(/U/)
  for (const name of Object.keys(sources) as (keyof typeof sources)[])
    expect(written(name).join(), name).not.toMatch(/undefined|NaN/)
})

test('a weight carries the axes of its matrix, the one it is for and the one that is summed', () => {
  expect(written('mlp.up', { bias: true })[0]).toMatch(/^upt,f=∑dWf,d\s*up\s*int,d\+bf\s*up$/)
  expect(written('mlp.gate')[0]).toMatch(/∑dWf,d\s*gate/)
  expect(written('attn.k')[0]).toMatch(/∑dWh,e,d\s*k/)
  expect(written('attn.out')[0]).toMatch(/Wd,h,e\s*o/)
})

import { describe, expect, it } from 'vitest'
import { NotACutawayFile, parse, type RecordHeader } from '../src/cutawayfile'
import { floats, rawFile, type Raw } from './file'

const header = { format: 1, model: { name: 'm' }, text: 'hi', tokens: [1, 2], spec: {} } as unknown as RecordHeader

const file = (tensors: { [name: string]: Raw }, meta: object = header) => rawFile(meta, tensors)

describe('a .cutaway file', () => {
  it('gives its header and its tensors', () => {
    const read = parse(file({ river: { dtype: 'F32', shape: [1, 2], bytes: floats([1.5, -2]) } }))
    expect(read.header.text).toBe('hi')
    expect(read.names).toEqual(['river'])
    expect(read.tensor('river')).toEqual({ shape: [1, 2], data: Float32Array.from([1.5, -2]) })
    expect(read.tensor('absent')).toBeNull()
  })

  it.each([
    ['BF16', [0xc0, 0x3f, 0x80, 0xff], [1.5, -Infinity]],
    ['F16', [0x00, 0x3e, 0x01, 0x00], [1.5, 2 ** -24]],
    ['I32', [7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], [7, -1]],
    ['I64', [9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], [9, 1]],
    ['U8', [3, 255], [3, 255]],
  ])('reads %s exactly', (dtype, bytes, values) => {
    const read = parse(file({ x: { dtype, shape: [2], bytes } }))
    expect([...read.tensor('x')!.data]).toEqual(values)
  })

  it('refuses what is cut short or of another kind', () => {
    const whole = file({ x: { dtype: 'F32', shape: [2], bytes: floats([1, 2]) } })
    expect(() => parse(whole.slice(0, 5))).toThrow(NotACutawayFile)
    expect(() => parse(whole.slice(0, 20))).toThrow(NotACutawayFile)
    expect(() => parse(whole.slice(0, whole.byteLength - 1)).tensor('x')).toThrow(NotACutawayFile)
    expect(() => parse(file({}, { ...header, format: 2 }))).toThrow('format 2')
  })
})

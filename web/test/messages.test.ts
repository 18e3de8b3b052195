import { expect, test } from 'vitest'
import { en } from '../src/messages/en'

const rooms = import.meta.glob('../src/messages/en/*.ts', { eager: true }) as { [path: string]: { [room: string]: object } }

test('no room takes the name of another room’s sentence', () => {
  expect(Object.keys(rooms).length).toBeGreaterThan(5)
  for (const room of Object.values(rooms)) for (const sentences of Object.values(room)) expect(en).toMatchObject(sentences)
})

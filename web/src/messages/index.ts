import { en, type Key } from './en'

export type { Key } from './en'

const messages: { readonly [key in Key]: string } = en

/** The message for `key` with its `{names}` filled in. The result is text, never markup. */
export function say(key: Key, values: { [name: string]: string | number } = {}): string {
  return messages[key].replace(/\{(\w+)\}/g, (whole, name: string) => (name in values ? String(values[name]) : whole))
}

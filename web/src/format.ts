// Numbers as a reader sees them. Rounding happens here and nowhere before.

const minus = (text: string) => text.replace('-', '−')

/** A whole number, its digits in threes. (Intl.NumberFormat would take some 20 ms of the first picture to start.) */
export const count = (n: number) => n.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ',')

/** A share as a percentage with about three digits; what is not 0 never reads 0, what is not 1 never reads 100. */
export function percent(share: number): string {
  if (share === 0) return '0\u202f%'
  if (share < 0.0001) return '<0.01\u202f%'
  if (share > 0.9999 && share < 1) return '>99.99\u202f%'
  const hundred = 100 * share
  return `${hundred.toFixed(hundred >= 10 ? 1 : 2)}\u202f%`
}

/** A share somebody set, as a percentage of no more digits than it has. */
export const limit = (share: number) => `${Number((100 * share).toPrecision(3))}\u202f%`

/** A measured number with four significant digits and a true minus. */
export function number(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'NaN' : value > 0 ? '∞' : '−∞'
  if (value === 0) return '0'
  const size = Math.abs(Number(value.toPrecision(4))) // 0.99996 is 1.000
  if (size < 1e-3 || size >= 1e6) return scientific(value)
  return minus(value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4))
}

/** A constant of a model: a whole number as it is, any other as measured numbers are. */
export const constant = (value: number) => (Number.isInteger(value) ? minus(count(value)) : number(value))

export function scientific(value: number): string {
  const [digits, exponent] = value.toExponential(1).split('e')
  return minus(`${digits} × 10${[...String(Number(exponent))].map((c) => '⁰¹²³⁴⁵⁶⁷⁸⁹'[Number(c)] ?? '⁻').join('')}`)
}

/** A number for a table: six decimals, a true minus, and what is not 0 never reads 0. */
export function decimal(value: number): string {
  if (!Number.isFinite(value)) return number(value)
  return value !== 0 && Math.abs(value) < 5e-7 ? scientific(value) : minus(value.toFixed(6))
}

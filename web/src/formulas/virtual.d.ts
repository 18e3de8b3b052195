declare module 'virtual:formulas' {
  const formulas: { [name: string]: import('./compile').Node[] }
  export default formulas
}

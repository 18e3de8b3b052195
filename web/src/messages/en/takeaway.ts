// What can be taken away from the page, and brought back.

export const takeaway = {
  'takeaway': 'Take away',
  'takeaway.about': 'pictures, a page that works without a server, the numbers, the Python that makes them',
  'picture.drawing': 'The whole drawing',
  'picture.block': 'Block {number}',
  'picture.distribution': 'The next token',
  'picture.draw': 'The draw',
  'pictures': 'Pictures',
  'pictures.about': 'Each as it now stands on the page, in light colours. SVG keeps text as text; PNG has twice the page’s resolution.',
  'picture.svg': 'SVG of {name}',
  'picture.png': 'PNG of {name}',
  'picture.take': 'Take away: {name}',
  'picture.says': '{name}. {model} on {text}. Made with Cutaway.',
  'picture.too.large': 'This picture is too large for a PNG here. Take the SVG.',
} as const

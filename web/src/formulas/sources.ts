// Every formula of the page, in TeX; one entry of a list is one line. Axes as in the record: t reads, s is read from,
// h head, e number of a head (E wide), d number of the stream (D wide), f neuron, v token of the vocabulary.
//
//   \q \k \v \o       query, key, value, output: their colours          \w   a weight
//   \n{name}          a tensor by the name it has in the record
//   \fill{eps}        a constant of this model, filled in as text where the formula is shown
//   \when{bias}{...}  shown only where there is such a constant, \unless where there is none

const tex = String.raw

/** The letter of a matrix; the space keeps its slant off the name above. */
const matrix = (letter: string, name: string, axes: string) => tex`\w{${letter}^{\,\n{${name}}}_{${axes}}}`
const linear = (made: string, weight: string, row: string, read: string) =>
  tex`${made} = \sum_{d} ${matrix('W', weight, `${row},d`)}\; ${read} \when{bias}{{}+ ${matrix('b', weight, row)}}`

const projection = (role: string, letter: string) => [
  linear(tex`\when{norm}{y_{e}}\unless{norm}{${role}{${letter}_{t,h,e}}}`, letter, 'h,e', tex`\n{in}_{t,d}`),
  tex`\when{norm}{${role}{${letter}_{t,h,e}} = \n{norm}(y)_{e}}`,
]

const either = (name: string, yes: string, no: string) => tex`\when{${name}}{${yes}}\unless{${name}}{${no}}`
/** Which key and value a head reads: its own, or those its group shares. */
const own = either('shared', tex`\lfloor h/\fill{shared} \rfloor`, 'h')

const turn = (role: string, letter: string) => [
  tex`${role}{${letter}^{\n{rot}}_{e}} = ${role}{${letter}_{e}}\,\cos(t\,\omega_{e}) - ${role}{${letter}_{e+R/2}}\,\sin(t\,\omega_{e})`,
  tex`${role}{${letter}^{\n{rot}}_{e+R/2}} = ${role}{${letter}_{e+R/2}}\,\cos(t\,\omega_{e}) + ${role}{${letter}_{e}}\,\sin(t\,\omega_{e})`,
  tex`R = \fill{turned},\quad \omega_{e} = \fill{base}^{-2e/R}\when{scaled}{\ \text{(stretched for long texts)}}`,
]

const rms = tex`\frac{x_{d}}{\sqrt{\frac{1}{D} \sum_{i} x_{i}^{2} + \fill{eps}}} \times \w{g_{d}}`
const layer = tex`\frac{x_{d} - \mu}{\sqrt{\frac{1}{D} \sum_{i} (x_{i} - \mu)^{2} + \fill{eps}}} \times \w{g_{d}} + \w{b_{d}}`
const added = (made: string, stream: string, branch: string) => [
  tex`${made} = \when{norm}{\n{norm}\big(}${stream} + \o{${branch}}\when{norm}{\big)}`,
]
const capped = (inside: string) =>
  tex`\when{softcap}{\fill{softcap}\,\tanh\!\big(\tfrac{1}{\fill{softcap}}\,}${inside}\when{softcap}{\big)}`

/** What a sublayer makes of the stream, with the norms that stand before and after it. */
const through = (stream: string, sublayer: string) =>
  tex`\when{post}{\n{norm}\big(}\o{{}\n{${sublayer}}}\big(\when{pre}{\n{norm}\,}\n{${stream}}\big)\when{post}{\big)}`
const branch = (made: string, stream: string, sublayer: string) =>
  tex`\n{${made}} = \when{stream}{\n{norm}\big(}\n{${stream}} + ${through(stream, sublayer)}\when{stream}{\big)}`

export const sources = {
  // into the stream
  'embed': [tex`\n{embed}_{t} = \w{E}_{\n{token}_{t}} \when{scale}{{}\times \fill{scale}}`],
  'embed.patch': [
    tex`\n{embed}_{t,d} = \sum_{c,y,x} \w{W_{d,c,y,x}}\; \n{image}_{c,\,y_{t}+y,\,x_{t}+x} + \w{b_{d}}`,
    tex`\n{embed}_{0} = \w{e} \n{ (learned, the same for every picture)}`,
  ],
  'embed.sound': [
    tex`\n{embed}_{t,d} = \n{gelu}\Big( \sum_{i,k} \w{W_{d,i,k}}\; \n{conv1}_{i,\,2t+k-1} + \w{b_{d}} \Big)`,
  ],
  'conv1': [tex`\n{conv1}_{d,r} = \n{gelu}\Big( \sum_{m,k} \w{W_{d,m,k}}\; \n{frames}_{m,\,r+k-1} + \w{b_{d}} \Big)`],
  'image': [tex`\n{image}_{c,y,x} = \big(\n{level}_{c,y,x} \div 255 - \n{mean}_{c}\big) \div \n{deviation}_{c}`],
  'pos.learned': [tex`\n{pos}_{t} = \w{P}_{t}`],
  'pos.sinusoid': [
    tex`\n{pos}_{t,d} = \sin(t\,\omega_{d}),\quad \n{pos}_{t,\,d+D/2} = \cos(t\,\omega_{d}),\quad \omega_{d} = 10000^{-2d/D}`,
  ],
  'segment': [tex`\n{segment}_{t} = \w{S}_{0}`],
  'relative.bias': [tex`\n{bias}_{h,t,s} = \w{B}_{\n{bucket}(s-t),\,h}`],
  'stream.first': [
    tex`\n{stream}_{t} = \when{norm}{\n{norm}\big(}\n{embed}_{t} \when{added}{{}+ \n{pos}_{t}}\when{segments}{{}+ \n{segment}_{t}}\when{norm}{\big)}`,
  ],
  'stream.next': [tex`\n{stream}^{(i)} = \n{stream}^{(i-1)} \n{, as the block before left it}`],

  // norms
  'norm.rms': [tex`\n{norm}(x)_{d} = ${rms}`],
  'norm.layer': [tex`\n{norm}(x)_{d} = ${layer}`, tex`\mu = \tfrac{1}{D} \sum_{i} x_{i}`],
  'norm.none': [tex`\n{in} = x`],

  // attention
  'attn.q': projection(tex`\q`, 'q'),
  'attn.k': projection(tex`\k`, 'k'),
  'attn.v': projection(tex`\v`, 'v'),
  'attn.q_rot': turn(tex`\q`, 'q'),
  'attn.k_rot': turn(tex`\k`, 'k'),
  'attn.q_rot.none': [tex`\q{q^{\n{rot}}} = \q{q}`],
  'attn.k_rot.none': [tex`\k{k^{\n{rot}}} = \k{k}`],
  'attn.scores': [
    tex`\n{score}_{h,t,s} = ${capped(tex`\sum_{e} ${either('turned', tex`\q{q^{\,\n{rot}}_{t,h,e}}\; \k{k^{\,\n{rot}}_{s,${own},e}}`, tex`\q{q_{t,h,e}}\; \k{k_{s,${own},e}}`)} \unless{unscaled}{{}\times \fill{scale}}`)} \when{relative}{{}+ \n{bias}_{h,t,s}}`,
  ],
  'attn.pattern': [
    tex`\n{pattern}_{h,t,s} = \frac{e^{\,\n{score}_{h,t,s}}}{\sum_{j} e^{\,\n{score}_{h,t,j}}} \when{causal}{,\quad s, j \le t} \when{window}{,\quad t - s < \fill{window}}`,
  ],
  'attn.z': [tex`\o{z_{t,h,e}} = \sum_{s} \n{pattern}_{h,t,s}\; \v{v_{s,${own},e}}`],
  'attn.out': [
    tex`\o{\n{out}_{t,d}} = \when{norm}{\n{norm}\Big(}\sum_{h} \sum_{e} ${matrix('W', 'o', 'd,h,e')}\; \o{z_{t,h,e}} \when{bias}{{}+ \w{b_{d}}}\when{norm}{\Big)_{d}}`,
  ],
  'attention': [
    tex`\n{pattern} = \n{softmax}\big(\,\q{q} \cdot \k{k} \unless{unscaled}{{}\times \fill{scale}}\,\big),\quad \o{\n{out}} = \w{W^{\,\n{o}}}\, \n{pattern} \cdot \v{v}`,
  ],

  // the stream between and after
  'resid_mid': added(tex`\n{mid}_{t,d}`, tex`\n{pre}_{t,d}`, tex`\n{attn out}_{t,d}`),
  'resid_cross': added(tex`\n{cross}_{t,d}`, tex`\n{mid}_{t,d}`, tex`\n{cross out}_{t,d}`),
  'resid_post': added(tex`\n{post}_{t,d}`, tex`\n{mid}_{t,d}`, tex`\n{mlp out}_{t,d}`),
  'resid_post.crossed': added(tex`\n{post}_{t,d}`, tex`\n{cross}_{t,d}`, tex`\n{mlp out}_{t,d}`),
  'block.chain': [branch('mid', 'pre', 'attn'), branch('post', 'mid', 'mlp')],
  'block.crossed': [branch('mid', 'pre', 'attn'), branch('cross', 'mid', 'cross attn'), branch('post', 'cross', 'mlp')],
  'block.parallel': [
    tex`\n{post} = \n{pre} + ${through('pre', 'attn')} + ${through('pre', 'mlp')}`,
  ],
  'river': [tex`\n{length} = \sqrt{\sum_{d} x_{t,d}^{2}}`],

  // MLP
  'mlp.up': [linear(tex`\n{up}_{t,f}`, 'up', 'f', tex`\n{in}_{t,d}`)],
  'mlp.gate': [linear(tex`\n{gate}_{t,f}`, 'gate', 'f', tex`\n{in}_{t,d}`)],
  'mlp.hidden.plain': [tex`\n{hidden}_{t,f} = \n{\{act\}}(\n{up}_{t,f})`],
  'mlp.hidden.gated': [tex`\n{hidden}_{t,f} = \n{\{act\}}(\n{gate}_{t,f}) \times \n{up}_{t,f}`],
  'act.gelu': [tex`\n{gelu}(x) = \frac{x}{2} \Big( 1 + \operatorname{erf} \frac{x}{\sqrt{2}} \Big)`],
  'act.gelu_tanh': [tex`\n{gelu}(x) = \frac{x}{2} \Big( 1 + \tanh \big( \sqrt{2/\pi}\,( x + 0.044715\,x^{3} ) \big) \Big)`],
  'act.relu': [tex`\n{relu}(x) = \max(0, x)`],
  'act.silu': [tex`\n{silu}(x) = \frac{x}{1 + e^{-x}}`],
  'act.tanh': [tex`\n{tanh}(x) = \frac{e^{x} - e^{-x}}{e^{x} + e^{-x}}`],
  'mlp.out': [
    tex`\o{\n{out}_{t,d}} = \when{norm}{\n{norm}\Big(}\sum_{f} ${matrix('W', 'down', 'd,f')}\; \n{hidden}_{t,f} \when{bias}{{}+ \w{b_{d}}}\when{norm}{\Big)_{d}}`,
  ],

  // the end
  'final': [tex`\n{final} = \n{norm}(x)`],
  'head.up': [tex`\n{up}_{t,d} = \sum_{i} \w{W_{d,i}}\; \n{final}_{t,i} + \w{b_{d}}`],
  'head.hidden': [tex`\n{hidden}_{t} = \when{norm}{\n{norm}\big(}\n{\{act\}}(\n{up}_{t})\when{norm}{\big)}`],
  'logits.two': [
    tex`\n{logit}_{v} = \tfrac{1}{2} \sum_{d} \big( \n{final}_{0,d}\; \w{U_{v,d}} + \n{final}_{1,d}\; \w{U'_{v,d}} \big) \when{bias}{{}+ \tfrac{1}{2}(\w{b_{v}} + \w{b'_{v}})}`,
  ],
  'logits': [
    tex`\n{logit}_{t,v} = ${capped(tex`\sum_{d} ${either('layered', tex`\n{hidden}_{t,d}`, tex`\n{final}_{t,d}`)}\; \w{{\when{tied}{E}\unless{tied}{U}}_{v,d}} \when{scale}{{}\times \fill{scale}} \when{bias}{{}+ \w{b_{v}}}`)}`,
  ],

  // one token drawn
  'repetition': [
    tex`\n{logit}'_{v} = \n{logit}_{v} \div \fill{penalty}\ \n{ where positive,}\quad \n{logit}_{v} \times \fill{penalty}\ \n{ where negative, for tokens of the text}`,
  ],
  'temperature': [tex`p_{v} = \frac{e^{\,\n{logit}_{v} / \fill{T}}}{\sum_{w} e^{\,\n{logit}_{w} / \fill{T}}}`],
  'argmax': [tex`\n{token} = \operatorname{argmax}_{v}\, \n{logit}_{v}`],
  'top-k': [tex`\n{keep } v \n{ if } \n{rank}(v) \le \fill{k}`],
  'top-p': [tex`\n{keep the fewest } v, \n{ likeliest first, with } \sum p_{v} \ge \fill{p}`],
  'min-p': [tex`\n{keep } v \n{ if } p_{v} \ge \fill{p} \times \max_{w} p_{w}`],
  'draw': [tex`\n{token} = \n{ the first } v \n{ with } \sum_{w \le v} p_{w} > u,\quad u = \fill{u}`],
} as const satisfies { [name: string]: readonly string[] }

export type FormulaName = keyof typeof sources

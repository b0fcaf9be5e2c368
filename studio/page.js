(() => {
  let last = null;
  const within = (e, what) => e.target.closest && e.target.closest(what);
  const set = (box, value) => {
    const proto = box.tagName === 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(proto.prototype, 'value').set.call(box, value);
    box.dispatchEvent(new Event('input', {bubbles: true})); box.focus();
  };
  const open = () => [...document.querySelectorAll('.ps-go')].find(b => b.offsetParent !== null);
  const look = word => {
    const part = word.closest('[data-look]');
    part.querySelectorAll('.ps-look').forEach(b => b.classList.toggle('ps-on', b === word));
    part.querySelector('img').src = word.dataset.map;
    part.querySelector('output').textContent = word.dataset.said;
  };
  // enlargement: nearest is the browser's; Lanczos with three lobes, edges repeated, is ours
  const lobes = x => x === 0 ? 1 : Math.abs(x) >= 3 ? 0 :
    3 * Math.sin(Math.PI * x) * Math.sin(Math.PI * x / 3) / (Math.PI * x) ** 2;
  const widen = (data, w, h, k) => {  // rows k times as long; rows become columns
    const out = new Float32Array(w * k * h * 4);
    for (let X = 0; X < w * k; X++) {
      const at = (X + .5) / k - .5, first = Math.floor(at) - 2, taps = [0, 1, 2, 3, 4, 5].map(i => lobes(at - first - i));
      const sum = taps.reduce((a, b) => a + b);
      for (let y = 0; y < h; y++) for (let i = 0; i < 6; i++) {
        const x = Math.min(w - 1, Math.max(0, first + i)), from = (y * w + x) * 4, to = (X * h + y) * 4;
        for (let c = 0; c < 4; c++) out[to + c] += taps[i] / sum * data[from + c]; } }
    return out; };
  const canvas = (w, h) => Object.assign(document.createElement('canvas'), {width: w, height: h});
  const lanczos = img => {
    const w = img.naturalWidth, h = img.naturalHeight, k = Math.floor(512 / Math.max(w, h));
    const small = canvas(w, h).getContext('2d'); small.drawImage(img, 0, 0);
    const big = widen(widen(small.getImageData(0, 0, w, h).data, w, h, k), h, w * k, k);
    const drawn = canvas(w * k, h * k);
    drawn.getContext('2d').putImageData(new ImageData(new Uint8ClampedArray(big.map(Math.round)), w * k, h * k), 0, 0);
    return drawn.toDataURL(); };
  const smoothed = img => {
    const on = document.body.classList.contains('ps-smooth'), ours = img.src && img.src === img.dataset.big;
    if (!on && ours) img.src = img.dataset.small;
    if (!on || ours || !img.src) return;
    if (!img.complete) return img.addEventListener('load', () => smoothed(img), {once: true});
    if (!img.naturalWidth || Math.max(img.naturalWidth, img.naturalHeight) > 256) return;
    img.dataset.small = img.src; img.dataset.big = lanczos(img); img.src = img.dataset.big; };
  const pictures = () => document.querySelectorAll('.ps-figure:not(.ps-wide) img, .ps-crisp:not(.ps-canvas) img');
  const watch = () => new MutationObserver(() => {
    if (document.body.classList.contains('ps-smooth')) pictures().forEach(smoothed);
  }).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']});
  if (document.body) watch(); else addEventListener('DOMContentLoaded', watch);
  document.addEventListener('focusin', e => { if (e.target.matches('textarea, input[type=text]') &&
    !e.target.closest('[role=listbox], .ps-code')) last = e.target; });
  document.addEventListener('input', e => { const s = within(e, '.ps-scrub'); if (!s) return;
    const f = s.parentElement, o = f.querySelector('select').options[s.value];
    f.querySelector('img').src = o.value; f.querySelector('output').textContent = o.textContent; });
  for (const kind of ['mouseover', 'focusin', 'click'])
    document.addEventListener(kind, e => { const w = within(e, '.ps-look'); if (w) look(w); });
  document.addEventListener('click', e => {
    const go = within(e, '.ps-go');  // on a phone the answer is below
    if (go && innerWidth < 760) document.getElementById(go.id.replace('-go', '-line'))
      .scrollIntoView({behavior: 'smooth', block: 'start'});
    const copy = within(e, '.ps-copy'), word = within(e, '.ps-word'), toggle = within(e, '.ps-toggle');
    if (copy) { const text = copy.parentElement.querySelector('pre').textContent;
      const told = () => { const was = copy.textContent; copy.textContent = 'copied'; setTimeout(() => copy.textContent = was, 1200); };
      if (navigator.clipboard) navigator.clipboard.writeText(text).then(told, told);
      else { const r = document.createRange(); r.selectNodeContents(copy.parentElement.querySelector('pre'));
        getSelection().removeAllRanges(); getSelection().addRange(r); document.execCommand('copy'); told(); } }
    if (word) { let box = last && last.isConnected && last.offsetParent ? last : null;
      if (!box) box = [...document.querySelectorAll('textarea')].find(t => t.offsetParent !== null);
      if (box) set(box, (box.value.trimEnd() + ' ' + word.textContent).trimStart()); }
    if (toggle) { document.body.classList.toggle(toggle.dataset.toggle === 'dark' ? 'dark' : 'ps-smooth'); pictures().forEach(smoothed); }
  });
  document.addEventListener('keydown', e => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) { const b = open(); if (b) { e.preventDefault(); b.click(); } }
    if (e.key === 'Escape') { const b = [...document.querySelectorAll('.ps-stop')].find(b => b.offsetParent !== null); if (b) b.click(); }
  });
  setInterval(() => fetch('gradio_api/app_id', {cache: 'no-store'}).then(() => true, () => false).then(here => {
    const gone = document.querySelector('.ps-gone'); if (gone) gone.hidden = here; }), 4000);
})();

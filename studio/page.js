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
    if (toggle) document.body.classList.toggle(toggle.dataset.toggle === 'dark' ? 'dark' : 'ps-smooth');
  });
  document.addEventListener('keydown', e => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) { const b = open(); if (b) { e.preventDefault(); b.click(); } }
    if (e.key === 'Escape') { const b = [...document.querySelectorAll('.ps-stop')].find(b => b.offsetParent !== null); if (b) b.click(); }
  });
  setInterval(() => fetch('gradio_api/app_id', {cache: 'no-store'}).then(() => true, () => false).then(here => {
    const gone = document.querySelector('.ps-gone'); if (gone) gone.hidden = here; }), 4000);
})();

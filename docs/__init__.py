"""The pages behind README, in Markdown; `site` makes the site of them."""

#!/usr/bin/env bash
# Build a release, check it, and caption a photo with the wheel in new environments: with each Python
# and the newest torch, then with the first Python and the oldest torch.
#
#   scripts/release.sh [FOLDER] [PYTHON ...]
#
# FOLDER gets the wheel and the sdist (default: dist); PYTHON is an interpreter, from the oldest to
# the newest (default: python). Needs `pip install build twine`, a clean checkout, and the package
# index. Uploads nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout=$PWD
dist=$(realpath -m "${1:-dist}")
pythons=("${@:2}")
((${#pythons[@]})) || pythons=(python)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    printf 'scripts/release.sh: %s\n' "$*" >&2
    exit 1
}

python -P -c 'import build, twine' 2>/dev/null || fail 'build or twine is missing. Run: pip install build twine'
[[ -z $(git status --porcelain) ]] || fail 'the checkout has uncommitted changes. Commit or remove them.'
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
grep -qx "version: $version" CITATION.cff || fail "CITATION.cff does not have version $version of pyproject.toml."

echo "== build captioning $version"
python -m build --outdir "$dist" >"$work/build.log" 2>&1 || fail "the build failed: $(tail -n 20 "$work/build.log")"
wheel=$dist/captioning-$version-py3-none-any.whl
sdist=$dist/captioning-$version.tar.gz
python -m twine check --strict "$wheel" "$sdist"

echo '== files'
# Both archives hold the files of git, and no other ones.
python -m zipfile -l "$wheel" | awk '/^captioning\// { print $1 }' | sort >"$work/wheel"
git ls-files captioning | sort | diff - "$work/wheel" || fail 'the wheel lacks files (<) or has others (>).'
tar -tzf "$sdist" | cut -d/ -f2- | grep -vx PKG-INFO | sort >"$work/sdist"
git ls-files | sort | diff - "$work/sdist" || fail 'the sdist lacks files (<) or has others (>).'
ls -lh "$wheel" "$sdist"

# try_wheel PYTHON [REQUIREMENT ...]: caption a photo with the wheel in a new environment.
try_wheel() (
    echo "== a photo with $("$1" --version) ${*:2}"
    "$1" -m venv "$work/venv"
    "$work/venv/bin/pip" install -q "$wheel[samples,train]" "${@:2}"
    cd "$work" # outside of the checkout, so that only the wheel can be imported
    venv/bin/pip list | grep -E '^(torch|torchvision|openvino|numpy) '
    venv/bin/captioning samples photos
    venv/bin/captioning caption photos/astronaut.png
    venv/bin/captioning recipes >/dev/null
    # A model of one's own, whose CNN comes from timm.
    venv/bin/captioning train --data "coco:$checkout/data/tiny" --output run --encoder.name timm:test_resnet \
        --encoder.weights None --min-count 1 --training.max-steps 1 --search-images 0 --workers 0
    venv/bin/captioning caption photos/astronaut.png --model run/model
    rm -r venv photos run features
)

for python in "${pythons[@]}"; do
    try_wheel "$python"
done
try_wheel "${pythons[0]}" torch==2.6.0 torchvision==0.21.0

cat <<STEPS
== $version is ready. The steps that remain:
1. Write the date of the release in CHANGELOG.md, commit, and run this script again.
2. git tag -a v$version -m "captioning $version" && git push origin v$version
3. python -m twine upload $wheel $sdist
STEPS

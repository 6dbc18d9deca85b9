#!/bin/sh
# Carries a release's task: begins it, waits until somebody has approved its plan, does the work, and follows what
# happens until somebody has accepted it.
#
#   docs/examples/release.sh TASK
set -eu
task=$1
here=$(dirname "$0")

podctl task create 'Publish the changelog' --id "$task" --as release.sh \
    --spec "$here/spec.md" --plan "$here/plan.yaml" --gates spec=auto
echo "waits for: podctl signal approve-plan $task"

# One line of JSON for each event, as it happens. grep ends at the first that matches, and podctl with it; if the task
# ends before that, nothing matches, and this script ends too.
podctl events "$task" --follow -o json | grep -m 1 '"type":"workstream_started"'

echo "- podctl explains its commands" > changelog.md
podctl signal workstream-result "$task" write --artifact changelog.md --as release.sh

podctl signal message "$task" 'the changelog is written, publishing it now' --workstream publish --as release.sh
podctl signal workstream-result "$task" publish --result 'published' --as release.sh

echo "waits for: podctl signal approve-review $task"
podctl events "$task" --follow
podctl task show "$task" -o json > result.json
